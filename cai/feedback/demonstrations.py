"""The constitution's worked examples as turns that go before the real question, in the same frames.

An example whose principle does not serve the use at hand is left out: its frame would have a hole.
"""

from collections.abc import Sequence

from cai.constitution.frames import LABELS, critique_messages, judge_messages, revision_messages
from cai.constitution.model import Constitution
from cai.records import Message
from cai.seeds import derive


def critique_turns(constitution: Constitution) -> tuple[Message, ...]:
    """Each example as a whole exchange, from the prompt to the revision."""
    principles = {principle.id: principle for principle in constitution.for_use("revise")}
    turns: list[Message] = []
    for example in constitution.critiques:
        if example.principle in principles:
            principle = principles[example.principle]
            exchange = critique_messages([Message("user", example.prompt)], example.answer, principle.critique)
            turns.extend(revision_messages(exchange, example.critique, principle.revision))
            turns.append(Message("assistant", example.revision))
    return tuple(turns)


def comparison_turns(constitution: Constitution) -> tuple[Message, ...]:
    """Each example as a question and its label; the better answer stands first in one and second in the next."""
    principles = {principle.id: principle for principle in constitution.for_use("judge")}
    known = [example for example in constitution.comparisons if example.principle in principles]
    turns: list[Message] = []
    for number, example in enumerate(known):
        better_second = number % 2
        first, second = (example.worse, example.better) if better_second else (example.better, example.worse)
        preference = principles[example.principle].preference
        fence = derive("example", number)
        turns.extend(judge_messages([Message("user", example.prompt)], first, second, preference, fence))
        turns.append(Message("assistant", LABELS[better_second]))
    return tuple(turns)


def after_system(messages: Sequence[Message], turns: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with these turns put before it, but behind its system message."""
    system = [message for message in messages[:1] if message.role == "system"]
    return (*system, *turns, *messages[len(system) :])
