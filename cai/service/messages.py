"""What the service and its worker say to each other: one JSON line each, over the worker's standard input and output.

Orders go down, news come up. Only the shapes live here; who sends what when is said by `worker` and `device`.
"""

import json
from dataclasses import dataclass
from typing import Literal

from cai.models.protocol import Finish, Sampling
from cai.records import Message, as_dict, from_dict


@dataclass(frozen=True, slots=True)
class RunOrder:
    """Run the pipeline in this file, under this name, in this folder."""

    job: int
    token: int
    run: str
    pipeline: str
    folder: str


@dataclass(frozen=True, slots=True)
class StopOrder:
    """Stop the run after the step in hand."""

    job: int


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """Answer one conversation once for each seed; `run` is a run's folder, or empty for the embedded model."""

    id: int
    run: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seeds: tuple[int, ...]
    stream: bool


@dataclass(frozen=True, slots=True)
class ForgetOrder:
    """Nobody waits for this answer any more."""

    id: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker owns the device and takes orders."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    job: int
    token: int
    state: Literal["done", "failed", "stopped"]
    error: str = ""


@dataclass(frozen=True, slots=True)
class ChatBegun:
    """The worker has taken the conversation up."""

    id: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more of the answer of one choice."""

    id: int
    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class ChoiceEnded:
    """A choice is complete. `text` is the whole answer where it was not streamed."""

    id: int
    choice: int
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class ChatEnded:
    """All choices are complete."""

    id: int


@dataclass(frozen=True, slots=True)
class ChatRefused:
    """`bad` requests are refused again however often they come; the others may be sent again later."""

    id: int
    why: Literal["bad", "busy", "failed"]
    message: str


Order = RunOrder | StopOrder | ChatOrder | ForgetOrder
ChatNews = ChatBegun | Piece | ChoiceEnded | ChatEnded | ChatRefused
News = Ready | RunEnded | ChatNews

_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        RunOrder,
        StopOrder,
        ChatOrder,
        ForgetOrder,
        Ready,
        RunEnded,
        ChatBegun,
        Piece,
        ChoiceEnded,
        ChatEnded,
        ChatRefused,
    )
}


def to_wire(said: Order | News) -> bytes:
    return json.dumps([type(said).__name__, as_dict(said)]).encode() + b"\n"


def read_order(line: bytes) -> Order:
    said = _read(line)
    assert isinstance(said, Order), said
    return said


def read_news(line: bytes) -> News:
    said = _read(line)
    assert isinstance(said, News), said
    return said


def _read(line: bytes) -> object:
    name, value = json.loads(line)
    said: object = from_dict(_KINDS[name], value)
    return said
