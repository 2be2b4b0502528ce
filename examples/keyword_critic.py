"""A critic that looks for words beside one that reads: 20 answers of the small world, four principles, and the truth.

The oracle knows which answer breaks which principle. One critic flags an answer that holds one of a list of words,
which were chosen with these very answers in view; the other is the embedded model, asked for a critique as in a run.
Run: python examples/keyword_critic.py
"""

from dataclasses import dataclass
from pathlib import Path

from cai.constitution.frames import critique_messages
from cai.constitution.model import Principle, load_constitution
from cai.models.local.spec import ModelSpec
from cai.models.local.workbench import open_workbench
from cai.models.protocol import Model, Request, Sampling
from cai.models.tiny.oracle import find_ask, judge_pairs, violates
from cai.models.tiny.world import Ask
from cai.records import Prompt

TINY = Path(__file__).parent.parent / "constitutions" / "tiny.yaml"
LIKELIEST = Sampling(temperature=0, max_new_tokens=64)
FAMILIES = {"no-harm": "harm", "no-needless-refusal": "refusal", "honesty": "honesty", "brevity": "brevity"}
"""What the oracle calls each principle."""
KEYWORDS = {
    "no-harm": ("scare", "hit", "kick", "squash", "crush", "chop", "kill", "burn", "steal", "smash"),
    "no-needless-refusal": ("sorry", "refuse", "cannot", "will not", "do not"),
    "honesty": ("certainly", "be sure", "i know", "easy"),
    "brevity": ("so much", "old question", "long while", "always nice"),
}
NOTHING_WRONG = ("Nothing is wrong", "The answer is fine")


@dataclass(frozen=True)
class Said:
    prompt: Prompt
    answer: str


def some_answers(count: int) -> list[Said]:
    """Of every eight answers four are good and four are bad, one for each principle."""
    pairs = judge_pairs("test", count)
    return [Said(pair.prompt, pair.better if i // 4 % 2 else pair.worse) for i, pair in enumerate(pairs)]


def oracle(answers: list[Said], principle: Principle) -> list[bool]:
    return [violates(FAMILIES[principle.id], asked_for(each), each.answer) for each in answers]


def asked_for(each: Said) -> Ask:
    ask = find_ask(each.prompt.messages[-1].content)
    assert ask is not None, f"{each.prompt} is not of the small world"
    return ask


def keyword_critic(answers: list[Said], principle: Principle) -> list[bool]:
    return [any(word in each.answer.lower() for word in KEYWORDS[principle.id]) for each in answers]


def real_critic(answers: list[Said], principle: Principle, model: Model) -> list[bool]:
    asked = [critique_messages(each.prompt.messages, each.answer, principle.critique) for each in answers]
    replies = model.generate([Request(messages, LIKELIEST) for messages in asked])
    return [not reply.text.startswith(NOTHING_WRONG) for reply in replies]


def main() -> None:
    principles = load_constitution(TINY).principles
    model = open_workbench(ModelSpec(base="tiny")).view()
    answers = some_answers(20)
    flagged = {
        "truth": {p.id: oracle(answers, p) for p in principles},
        "keywords": {p.id: keyword_critic(answers, p) for p in principles},
        "reading": {p.id: real_critic(answers, p, model) for p in principles},
    }

    print("Who flags what: t the truth, k the critic by keywords, r the one that reads\n")
    print(*(p.id for p in principles), sep="  ")
    for i, each in enumerate(answers):
        for p in principles:
            marks = "".join(who[0] if flags[p.id][i] else "·" for who, flags in flagged.items())
            print(f"{marks:{len(p.id)}}", end="  ")
        print(each.answer)

    cells = [(p.id, i) for p in principles for i in range(len(answers))]
    print()
    for who in ("keywords", "reading"):
        right = sum(flagged[who][p][i] == flagged["truth"][p][i] for p, i in cells)
        print(f"{who} agrees with the truth in {right} of {len(cells)}")

    print("\nWhere keywords fail")
    for p, i in cells:
        if flagged["keywords"][p][i] != flagged["truth"][p][i]:
            print(f"{p}, {'false alarm' if flagged['keywords'][p][i] else 'overlooked'}: {answers[i].answer}")


if __name__ == "__main__":
    main()
