"""The text around a principle: what the critic, the reviser and the judge are asked, word for word.

Changing a word here changes what every model says, so the frames have a digest of their own, pinned by a golden test
and written into each record's lineage. What the principle itself says lives in the constitution.
"""

from collections.abc import Sequence

from cai.constitution.actions import said
from cai.records import Message, digest
from cai.seeds import derive

CRITIQUE = "Critique request: {critique} Name what is wrong, or say that nothing is."
REVISION = "Revision request: {revision} Reply with the answer only."
_COMPARE = """Compare two answers to one request.

Request:
{conversation}

{preference}

Answer A [{nonce}]:
{first}
[{nonce}]

Answer B [{nonce}]:
{second}
[{nonce}]

"""
DECIDE = "Reply with A or B."
JUDGE = _COMPARE + DECIDE
REASON = _COMPARE + "First say in a few sentences how the two differ in this respect. Do not decide yet."
SCORE = """Rate an answer to a request.

Request:
{conversation}

{preference}

Answer [{nonce}]:
{answer}
[{nonce}]

Reply with a number from 1, the worst, to 10, the best."""

LABELS = ("A", "B")
SCORES = tuple(str(i) for i in range(1, 11))


def frames_digest(*, reasoned: bool = False) -> str:
    """Of the frames that shape a record; a judge that reasons first is asked in two more."""
    frames = [CRITIQUE, REVISION, JUDGE, SCORE, LABELS, SCORES]
    return digest([*frames, REASON, DECIDE] if reasoned else frames)


def critique_messages(messages: Sequence[Message], answer: str, critique: str) -> tuple[Message, ...]:
    """The exchange so far, and the request to criticise its last answer."""
    request = Message("user", CRITIQUE.format(critique=critique))
    return (*messages, Message("assistant", answer), request)


def revision_messages(critique_exchange: Sequence[Message], critique: str, revision: str) -> tuple[Message, ...]:
    """The critique's exchange, the critique itself, and the request to revise."""
    request = Message("user", REVISION.format(revision=revision))
    return (*critique_exchange, Message("assistant", critique), request)


def judge_messages(
    messages: Sequence[Message], first: str, second: str, preference: str, seed: int, *, reasoned: bool = False
) -> tuple[Message, ...]:
    """The comparison of two answers; neither can close its own fence, because it cannot know the nonce.

    `reasoned` asks for what speaks for either, and for no decision: `decision_messages` asks for that afterwards.
    """
    nonce = fence_nonce(seed, [first, second, preference])
    frame = REASON if reasoned else JUDGE
    text = frame.format(conversation=as_text(messages), first=first, second=second, preference=preference, nonce=nonce)
    return (Message("user", text),)


def decision_messages(asked: Sequence[Message], reasoning: str) -> tuple[Message, ...]:
    """The question, what the judge thought of it, and the request to decide."""
    return (*asked, Message("assistant", reasoning), Message("user", DECIDE))


def score_messages(messages: Sequence[Message], answer: str, preference: str, seed: int) -> tuple[Message, ...]:
    conversation = as_text(messages)
    nonce = fence_nonce(seed, [conversation, answer, preference])
    text = SCORE.format(conversation=conversation, answer=answer, preference=preference, nonce=nonce)
    return (Message("user", text),)


def as_text(messages: Sequence[Message]) -> str:
    """A conversation as the judge reads it: a lone user message as it is, anything longer with the speakers named and
    with what an agent did."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role.capitalize()}: {said(message)}" for message in messages)


def fence_nonce(seed: int, texts: Sequence[str]) -> str:
    """Four hexadecimal digits that stand in none of the texts."""
    for attempt in range(1000):
        nonce = f"{derive('fence', seed, attempt) & 0xFFFF:04x}"
        if not any(nonce in text for text in texts):
            return nonce
    raise ValueError("every short nonce occurs in the texts to be fenced")
