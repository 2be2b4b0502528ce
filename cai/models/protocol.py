"""What a model can do, whoever runs it: answer a conversation or go on with a text, and weigh given continuations.

Local, scripted and remote models are interchangeable through `Model`. Training needs more than this and asks the
workbench.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Literal, Protocol, TypeVar

from cai.errors import CaiError
from cai.records import Message

Finish = Literal["stop", "length"]
TOO_LONG = "too long"
"""The reason of a request that has more tokens than the model can read, whoever found that out."""
Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw tokens. A temperature of 0 takes the likeliest token."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to answer, or one text to go on with; equal requests give equal replies."""

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    seed: int = 0
    tools: tuple[dict[str, object], ...] = ()
    logprobs: bool = False
    """Whether the log-probabilities of what is drawn are wanted."""
    text: str = ""
    """Plain text to go on with, in place of a conversation: it has no turns, no template is put around it, and nothing
    in it is a special token."""

    def __post_init__(self) -> None:
        assert not (self.text and (self.messages or self.tools)), "a request is a conversation or a text, never both"


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    token_ids: tuple[int, ...] = ()
    """The sampled ids as they were drawn, the end-of-turn id included; empty where the model does not tell them."""
    logprobs: tuple[float, ...] = ()
    """log p of each sampled id before temperature and nucleus, where they were asked for and are known."""


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """One conversation and the texts that might open the answer, or one text and what might follow it."""

    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    text: str = ""
    """Plain text, in place of a conversation."""

    def __post_init__(self) -> None:
        assert not (self.text and self.messages), "a request is a conversation or a text, never both"


@dataclass(frozen=True, slots=True)
class Choice:
    """The summed log-probability of each continuation."""

    logprobs: tuple[float, ...]
    way: str = "log-probabilities"
    """How the choice was read. Where a model tells no probabilities, its word counts as certain."""
    tokens: int = 0
    """What was read to weigh them, as the model counts; 0 where it does not tell."""

    @property
    def probabilities(self) -> tuple[float, ...]:
        """The continuations' shares among themselves."""
        top = max(self.logprobs)
        weights = [exp(value - top) for value in self.logprobs]
        return tuple(weight / sum(weights) for weight in weights)


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that came to nothing after everything was tried: `reason` to count by, `detail` for people.

    Only models that can lose a call give this; what ends the whole job is raised.
    """

    reason: str
    detail: str


class RowError(CaiError):
    """A conversation that cannot become tokens: one row's misfortune, with a short reason to count by."""

    exit_code = 2

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class Model(Protocol):
    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of weights, revision, adapter, quantisation and template: equal fingerprints answer alike."""
        ...

    def generate(self, requests: Sequence[Request]) -> Sequence[Reply | Failed]:
        """What came of each request, in the order asked."""
        ...

    def choose(self, requests: Sequence[ChoiceRequest]) -> Sequence[Choice | Failed]: ...


def all_told(model: Model, results: Sequence[Told | Failed]) -> list[Told]:
    """The results where every one is needed; a failed one ends the work."""
    told: list[Told] = []
    for result in results:
        if isinstance(result, Failed):
            raise CaiError(f"model {model.name!r}: {result.reason}: {result.detail}; the same command tries again")
        told.append(result)
    return told
