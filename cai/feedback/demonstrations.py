"""The constitution's worked examples, each with its principle, in the order in which they go before a real question.

An example whose principle does not serve the use at hand is left out: its frame would have a hole. How they are
written down is `styles`' business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cai.constitution.model import Constitution, CritiqueExample, Principle, draw_principle
from cai.records import Message


@dataclass(frozen=True, slots=True)
class WorkedCritique:
    principle: Principle
    example: CritiqueExample


@dataclass(frozen=True, slots=True)
class WorkedComparison:
    """A question and its answer: `better` is the place of the better one, 0 or 1."""

    number: int
    principle: Principle
    prompt: str
    answers: tuple[str, str]
    better: int


def worked_critiques(constitution: Constitution) -> list[WorkedCritique]:
    principles = {principle.id: principle for principle in constitution.for_use("revise")}
    known = [example for example in constitution.critiques if example.principle in principles]
    return [WorkedCritique(principles[example.principle], example) for example in known]


def worked_comparisons(constitution: Constitution, seed: int) -> list[WorkedComparison]:
    """The better answer stands first in one and second in the next.

    An example that names no principle has one drawn for it, the same for every pair of a run: then all questions begin
    alike, and what they begin with is read once.
    """
    judging = constitution.for_use("judge")
    principles = {principle.id: principle for principle in judging}
    usable = [e for e in constitution.comparisons if judging and (not e.principle or e.principle in principles)]
    worked = []
    for number, example in enumerate(usable):
        if example.principle:
            principle = principles[example.principle]
        else:
            principle = draw_principle(replace(constitution, principles=judging), seed, "worked comparison", number)
        better = number % 2
        answers = (example.worse, example.better) if better else (example.better, example.worse)
        worked.append(WorkedComparison(number, principle, example.prompt, answers, better))
    return worked


def after_system(messages: Sequence[Message], turns: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with these turns put before it, but behind its system message."""
    system = [message for message in messages[:1] if message.role == "system"]
    return (*system, *turns, *messages[len(system) :])
