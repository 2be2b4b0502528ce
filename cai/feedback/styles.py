"""What critic, reviser and judge are given, by style: turns of a chat, or the published protocol as plain text.

`chat` is for models that follow instructions, `paper` for any model that can go on with a text. The words live in
`constitution.frames` and `constitution.paper`; here is the one place that chooses between them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from cai.constitution import frames, paper
from cai.constitution.model import Constitution
from cai.feedback.demonstrations import after_system, worked_comparisons, worked_critiques
from cai.models.protocol import ChoiceRequest, Request, Sampling
from cai.records import Message, Prompt, new_prompt
from cai.seeds import derive

Style = Literal["chat", "paper"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is given: the turns of a conversation, or a text to go on with."""

    messages: tuple[Message, ...] = ()
    text: str = ""


NOTHING = Asked()


def frames_digest_of(style: Style, *, reasoned: bool = False) -> str:
    return paper.paper_digest() if style == "paper" else frames.frames_digest(reasoned=reasoned)


def labels_of(style: Style) -> tuple[str, ...]:
    """What the judge may say, the first answer's label first."""
    return paper.LABELS if style == "paper" else frames.LABELS


def request_of(asked: Asked, prompt: Prompt, sampling: Sampling, seed: int) -> Request:
    """A plain text ends where the next turn would begin, and has no other way to hold tools than to name them."""
    if asked.text:
        stops = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *paper.STOPS))))
        return Request((), stops, seed, text=asked.text)
    return Request(asked.messages, sampling, seed, prompt.tools)


def ask_answer(style: Style, prompt: Prompt) -> Asked:
    """The prompt alone: no worked example goes before an answer."""
    if style == "paper":
        return Asked(text=paper.answer_text(paper.conversation_text(prompt.messages, prompt.tools)))
    return Asked(prompt.messages)


def ask_critique(style: Style, examples: Asked, prompt: Prompt, answer: str, critique: str) -> Asked:
    if style == "paper":
        conversation = examples.text + paper.conversation_text(prompt.messages, prompt.tools)
        return Asked(text=paper.critique_text(conversation, answer, critique))
    conversation_turns = after_system(prompt.messages, examples.messages)
    return Asked(frames.critique_messages(conversation_turns, answer, critique))


def ask_revision(exchange: Asked, critique: str, revision: str) -> Asked:
    """The exchange of `ask_critique`, its critique, and the request to revise."""
    if exchange.text:
        return Asked(text=paper.revision_text(exchange.text, critique, revision))
    return Asked(frames.revision_messages(exchange.messages, critique, revision))


def ask_judge(
    style: Style, examples: Asked, prompt: Prompt, answers: tuple[str, str], preference: str, seed: int
) -> ChoiceRequest:
    """Which of the two answers, in this order, is better."""
    if style == "paper":
        conversation = paper.conversation_text(prompt.messages, prompt.tools)
        text = examples.text + paper.judge_text(conversation, *answers, preference)
        return ChoiceRequest((), paper.LABELS, text)
    asked = frames.judge_messages(prompt.messages, *answers, preference, seed)
    return ChoiceRequest((*examples.messages, *asked), frames.LABELS)


def critique_examples(style: Style, constitution: Constitution) -> Asked:
    """Each worked critique as a whole exchange, from the prompt to the revision: they go before every request."""
    examples = NOTHING
    for worked in worked_critiques(constitution):
        example, principle = worked.example, worked.principle
        asked = ask_critique(style, NOTHING, new_prompt(example.prompt), example.answer, principle.critique)
        asked = ask_revision(asked, example.critique, principle.revision)
        examples = Asked(
            (*examples.messages, *asked.messages, *_said(asked, example.revision)),
            examples.text + (paper.worked_revision(asked.text, example.revision) if asked.text else ""),
        )
    return examples


def comparison_examples(style: Style, constitution: Constitution, seed: int) -> Asked:
    """Each worked comparison as a question and its label."""
    examples = NOTHING
    for worked in worked_comparisons(constitution, seed):
        prompt, preference = new_prompt(worked.prompt), worked.principle.preference
        question = ask_judge(style, NOTHING, prompt, worked.answers, preference, derive("example", worked.number))
        asked, label = Asked(question.messages, question.text), question.continuations[worked.better]
        examples = Asked(
            (*examples.messages, *asked.messages, *_said(asked, label)),
            examples.text + (f"{asked.text}{label}\n\n" if asked.text else ""),
        )
    return examples


def _said(asked: Asked, reply: str) -> tuple[Message, ...]:
    """The reply as a turn, in a conversation; a text has none."""
    return (Message("assistant", reply),) if asked.messages else ()
