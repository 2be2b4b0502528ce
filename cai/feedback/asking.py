"""One principle's verdict on two answers: asked in both orders, with or without reasoning before the choice.

How the verdicts of several principles become one preference lives in `judge`; the words in `constitution.frames`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isnan

from cai.constitution.frames import LABELS, decision_messages, judge_messages
from cai.constitution.model import Principle
from cai.feedback.clean import clean
from cai.feedback.styles import Asked, Style, ask_judge, labels_of
from cai.models.protocol import Choice, ChoiceRequest, Failed, Model, Reply, Request, Sampling
from cai.records import Prompt, Verdict
from cai.seeds import derive

FREELY = Sampling(temperature=1.0, max_new_tokens=256)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Thinking before the choice (arXiv 2212.08073, section 4.1): how often for each order, and how long."""

    chains: int = 1
    """Several are averaged in probability."""
    sampling: Sampling = FREELY


@dataclass(frozen=True, slots=True)
class Manner:
    """How a judge is asked: in which style, after which worked comparisons, and whether it thinks first."""

    style: Style
    examples: Asked
    reasoning: Reasoning | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Which of two answers a principle prefers. `row` and the principle decide its seeds."""

    row: str
    prompt: Prompt
    left: str
    right: str
    principle: Principle

    @property
    def orders(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """The left answer first, then the right one."""
        return (self.left, self.right), (self.right, self.left)

    def fence(self, seed: int) -> int:
        return derive("judge", seed, self.row, self.principle.id)


@dataclass(frozen=True, slots=True)
class Heard:
    """The verdict on the left answer, how the choices were read, and what that cost in tokens."""

    verdict: Verdict
    ways: frozenset[str]
    tokens: int


@dataclass(frozen=True, slots=True)
class Unheard:
    """A question without a verdict: a short reason to count by, what happened, and to how many of its judgements."""

    reason: str
    detail: str
    lost: int
    judgements: int


@dataclass(frozen=True, slots=True)
class _Chosen:
    """One choice for one order, and what it is founded on."""

    choice: Choice | Failed
    reason: str = ""
    tokens: int = 0


def ask(questions: Sequence[Question], manner: Manner, model: Model, seed: int) -> list[Heard | Unheard]:
    """Each question's verdict, in the order asked. All of them are one call to the model, or two with reasoning."""
    if not questions:
        return []
    if manner.reasoning:
        chains, chosen = manner.reasoning.chains, _after_reasoning(questions, manner.reasoning, model, seed)
    else:
        chains, chosen = 1, _at_once(questions, manner, model, seed)
    each = 2 * chains
    assert len(chosen) == each * len(questions), (model.name, len(chosen), len(questions))
    labels = labels_of(manner.style)
    return [_heard(chosen[i * each : (i + 1) * each], question, labels) for i, question in enumerate(questions)]


def label_probabilities(choice: Choice, labels: int) -> tuple[float, ...] | None:
    """Each label's share of the probability, or None when the model did not give one for every label."""
    values = choice.logprobs
    broken = len(values) != labels or any(isnan(value) or value == inf for value in values) or max(values) == -inf
    return None if broken else choice.probabilities


def _at_once(questions: Sequence[Question], manner: Manner, model: Model, seed: int) -> list[_Chosen]:
    requests = [
        ask_judge(manner.style, manner.examples, q.prompt, answers, q.principle.preference, q.fence(seed))
        for q in questions
        for answers in q.orders
    ]
    return [_Chosen(choice, tokens=_tokens(choice)) for choice in model.choose(requests)]


def _after_reasoning(questions: Sequence[Question], reasoning: Reasoning, model: Model, seed: int) -> list[_Chosen]:
    """The worked comparisons are left out: they decide without a thought, and would teach the judge to."""
    asked = [
        Request(
            judge_messages(q.prompt.messages, *answers, q.principle.preference, q.fence(seed), reasoned=True),
            reasoning.sampling,
            derive("reasoning", seed, q.row, q.principle.id, order, chain),
        )
        for q in questions
        for order, answers in enumerate(q.orders)
        for chain in range(reasoning.chains)
    ]
    thoughts = [_thought(reply) for reply in model.generate(asked)]
    decisions = [
        ChoiceRequest(decision_messages(request.messages, thought), LABELS)
        for request, (thought, _) in zip(asked, thoughts, strict=True)
        if isinstance(thought, str)
    ]
    told = iter(model.choose(decisions) if decisions else [])
    found = []
    for thought, tokens in thoughts:
        if isinstance(thought, Failed):
            found.append(_Chosen(thought, "", tokens))
        else:
            choice = next(told)
            found.append(_Chosen(choice, thought, tokens + _tokens(choice)))
    return found


def _thought(reply: Reply | Failed) -> tuple[str | Failed, int]:
    """What the judge thought, and the tokens it cost. A thought that was cut off still tells something."""
    if isinstance(reply, Failed):
        return reply, 0
    tokens = reply.prompt_tokens + reply.completion_tokens
    text = clean(reply.text, "critique").text
    return text or Failed("empty reasoning", "the judge decided nothing because it thought nothing"), tokens


def _tokens(choice: Choice | Failed) -> int:
    return choice.tokens if isinstance(choice, Choice) else 0


def _heard(chosen: Sequence[_Chosen], question: Question, labels: Sequence[str]) -> Heard | Unheard:
    told = [(each, each.choice) for each in chosen]
    failed = [choice for _, choice in told if isinstance(choice, Failed)]
    if failed:
        return Unheard(failed[0].reason, failed[0].detail, len(failed), len(chosen))
    choices = [choice for _, choice in told if isinstance(choice, Choice)]
    shares = [label_probabilities(choice, len(labels)) for choice in choices]
    known = [share for share in shares if share is not None]
    if len(known) < len(shares):
        values = f"log-probabilities of {labels}: " + " and ".join(str(choice.logprobs) for choice in choices)
        broken = f"principle {question.principle.id!r}, {values}"
        return Unheard("broken judgement", broken, len(shares) - len(known), len(chosen))
    # The left answer is the first label in the first order, and the second in the second.
    chains = len(known) // 2
    first = sum(share[0] for share in known[:chains]) / chains
    second = sum(share[1] for share in known[chains:]) / chains
    reasons = tuple(each.reason for each in chosen if each.reason)
    ways = frozenset(choice.way for choice in choices)
    return Heard(Verdict(question.principle.id, first, second, reasons), ways, sum(each.tokens for each in chosen))
