"""Prompts that a model writes, from seeds by topic: harmful ones, their harmless twins, everyday and expert ones.

A model is asked for one prompt at a time. Every time ends once, in a prompt or in a reject with its reason. What it is
asked depends on the seed, the topic and the number of the attempt; twins alone also on the harmful prompts that were
kept before. A topic that brings nothing new any more is given up, and says so.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cai.errors import CaiError, InputError, shorten
from cai.feedback.filters.duplicates import NearTexts
from cai.feedback.filters.looking import Finding
from cai.feedback.prompt_frames import ask_for_prompt, prompt_frames_digest
from cai.feedback.request_text import bare_request, why_no_request
from cai.feedback.topics import KINDS, Kind, Topic
from cai.files import write_atomic
from cai.models.protocol import Failed, Model, Reply, Request, RowError, Sampling
from cai.records import Reject, content_id, new_prompt, to_line
from cai.seeds import derive, shuffled

STAGE = "prompts"
# Requests are short: of two that differ in their object alone, "how do I clean the kettle" and "the window", two
# thirds of the pairs of words are the same; of "can you" and "could you tell me how to pick a lock" nearly four fifths.
_RUN, _BAND_ROWS = 2, 4


FREELY = Sampling(temperature=1.0, max_new_tokens=128)


@dataclass(frozen=True, slots=True)
class PromptSettings:
    sampling: Sampling = FREELY
    examples: int = 3
    """Seeds shown with each request, drawn anew."""
    near: float = 0.7
    """A prompt that shares this much of its pairs of words with a seed or an earlier prompt is none."""
    patience: int = 24
    """A topic's kind is given up after so many attempts in a row that brought nothing."""
    longest: int = 600
    """In characters."""


@dataclass(frozen=True, slots=True)
class PromptOrder:
    """`wanted` of each kind for each topic. `is_request` may know more of the model's world than its form shows."""

    topics: tuple[Topic, ...]
    kinds: tuple[Kind, ...]
    wanted: int
    seed: int = 0
    settings: PromptSettings = PromptSettings()
    is_request: Callable[[str], bool] = lambda _: True


@dataclass(frozen=True, slots=True)
class MadePrompt:
    """A prompt as a pipeline reads it, and what made it."""

    id: str
    prompt: str
    kind: Kind
    topic: str
    source: str
    twin_of: str
    """The harmful prompt that this one only sounds like."""
    model: str
    frames: str
    seed: int
    attempt: int


@dataclass(slots=True)
class Cell:
    """One kind of one topic, and how far it is. `dry` counts the attempts since the last that brought something."""

    topic: Topic
    kind: Kind
    wanted: int
    asked: int = 0
    kept: int = 0
    dry: int = 0

    given_up: bool = False

    @property
    def missing(self) -> int:
        return self.wanted - self.kept


@dataclass(slots=True)
class Making:
    """What has been made so far. The same value grows from round to round."""

    cells: list[Cell]
    prompts: list[MadePrompt] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return sum(cell.asked for cell in self.cells)

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(reject.reason for reject in self.rejects).most_common())


@dataclass(frozen=True, slots=True)
class _Attempt:
    cell: Cell
    number: int
    request: Request
    original: str


def make_prompts(order: PromptOrder, model: Model) -> Iterator[Making]:
    """Tells how far it is before the first round and after each; whoever has enough stops taking."""
    _check(order)
    making = Making([Cell(t, kind, order.wanted) for kind in KINDS if kind in order.kinds for t in order.topics])
    known = _Known(order)
    yield making
    for kind in KINDS:
        while rows := [c for c in making.cells if c.kind == kind and c.missing and not c.given_up]:
            attempts = [attempt for cell in rows for attempt in _next_attempts(cell, order, making)]
            for attempt, reply in zip(attempts, _replies(model, attempts), strict=True):
                _settle(attempt, reply, order, making, known, model)
            for cell in rows:
                cell.given_up = cell.missing > 0 and (cell.dry >= order.settings.patience or not cell.asked)
            yield making


def write_prompts(making: Making, file: Path) -> Path:
    """The prompts and, beside them, the rejects; each file whole or not at all, and the prompts last."""
    rejects = file.with_name(f"{file.stem}.rejects.jsonl")
    if making.asked != len(making.prompts) + len(making.rejects):
        told = f"{making.asked} requests became {len(making.prompts)} prompts and {len(making.rejects)} rejects"
        raise CaiError(f"{file}: {told}; some were lost or doubled, which is an error in this program")
    write_atomic(rejects, "".join(f"{to_line(reject)}\n" for reject in making.rejects))
    if making.prompts:
        write_atomic(file, "".join(f"{to_line(prompt)}\n" for prompt in making.prompts))
    return rejects


def _check(order: PromptOrder) -> None:
    """Twins need something to be the twins of."""
    for topic in order.topics if "borderline" in order.kinds and "harmful" not in order.kinds else ():
        if not topic.harmful:
            remedy = "give it harmful seeds, or make harmful prompts too"
            raise InputError(f"topic {topic.id!r}", "has no harmful request to write harmless twins of", None, remedy)


def _next_attempts(cell: Cell, order: PromptOrder, making: Making) -> Iterator[_Attempt]:
    """As many as are missing, and no more than patience allows if all of them fail."""
    originals = _originals(cell, order, making) if cell.kind == "borderline" else []
    if cell.kind == "borderline" and not originals:
        return
    for number in range(cell.asked, cell.asked + min(cell.missing, order.settings.patience - cell.dry)):
        seed = derive("prompt", order.seed, cell.topic.id, cell.kind, number)
        examples = shuffled(list(cell.topic.seeds(cell.kind)), derive("examples", seed))[: order.settings.examples]
        original = originals[number % len(originals)] if originals else ""
        messages = ask_for_prompt(cell.kind, cell.topic.title, examples, original)
        yield _Attempt(cell, number, Request(messages, order.settings.sampling, seed), original)


def _originals(cell: Cell, order: PromptOrder, making: Making) -> list[str]:
    """The topic's harmful requests, given and made, in an order of the seed."""
    made = [p.prompt for p in making.prompts if p.kind == "harmful" and p.topic == cell.topic.id]
    return shuffled([*cell.topic.harmful, *made], derive("originals", order.seed, cell.topic.id))


def _replies(model: Model, attempts: Sequence[_Attempt]) -> list[Reply | Failed]:
    """A request that cannot become tokens fails alone: the others are asked in halves, until it stands by itself."""
    if not attempts:
        return []
    try:
        return list(model.generate([attempt.request for attempt in attempts]))
    except RowError as error:
        if len(attempts) == 1:
            return [Failed(error.reason, error.detail)]
    half = len(attempts) // 2
    return [*_replies(model, attempts[:half]), *_replies(model, attempts[half:])]


def _settle(
    attempt: _Attempt, reply: Reply | Failed, order: PromptOrder, making: Making, known: "_Known", model: Model
) -> None:
    """One attempt's end: a prompt, or a reject."""
    cell = attempt.cell
    cell.asked += 1
    text = bare_request(reply.text) if isinstance(reply, Reply) else ""
    finding = _finding(reply, text, order, known)
    if finding:
        cell.dry += 1
        place = f"{cell.topic.id}/{cell.kind}, attempt {attempt.number + 1}: {finding.detail}"
        detail = f"{place}: {shorten(text)}" if text else place
        identity = content_id(STAGE, cell.topic.id, cell.kind, order.seed, attempt.number)
        making.rejects.append(Reject(identity, STAGE, finding.reason, detail))
        return
    cell.kept += 1
    cell.dry = 0
    known.keep(text)
    making.prompts.append(
        MadePrompt(
            id=new_prompt(text).id,
            prompt=text,
            kind=cell.kind,
            topic=cell.topic.id,
            source=f"made/{cell.kind}/{cell.topic.id}",
            twin_of=new_prompt(attempt.original).id if attempt.original else "",
            model=model.fingerprint,
            frames=prompt_frames_digest(),
            seed=order.seed,
            attempt=attempt.number,
        )
    )


def _finding(reply: Reply | Failed, text: str, order: PromptOrder, known: "_Known") -> Finding | None:
    if isinstance(reply, Failed):
        return Finding(reply.reason, reply.detail)
    if reply.finish == "length":
        return Finding("cut off", f"no end after {reply.completion_tokens} tokens")
    if finding := why_no_request(text, order.settings.longest):
        return finding
    if not order.is_request(text):
        return Finding("not a request", "the model's world knows no such request")
    return known.copied(text)


@dataclass(frozen=True, slots=True)
class _KnownText:
    """`reason` is why a text that nearly repeats this one is left out."""

    text: str
    reason: Literal["copy of a seed", "near duplicate"]


class _Known:
    """Seeds and kept prompts, against which every new one is held."""

    def __init__(self, order: PromptOrder) -> None:
        self._near = NearTexts(order.settings.near, _RUN, _BAND_ROWS)
        self._texts: list[_KnownText] = []
        for topic in order.topics:
            for kind in KINDS:
                for seed in topic.seeds(kind):
                    self._add(_KnownText(seed, "copy of a seed"))

    def keep(self, text: str) -> None:
        self._add(_KnownText(text, "near duplicate"))

    def copied(self, text: str) -> Finding | None:
        near = self._near.nearest(self._near.sketched(text))
        if near is None:
            return None
        other = self._texts[near.place]
        told = f"{near.share:.2f} of its pairs of words are those of {shorten(other.text, 80)!r}"
        return Finding(other.reason, told)

    def _add(self, known: _KnownText) -> None:
        self._near.add(self._near.sketched(known.text))
        self._texts.append(known)
