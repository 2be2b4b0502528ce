"""The rows that one trainer alone learns from: read from a file or a folder in any layout, told apart, made tokens.

A row that does not fit is a named reject and the others go on; data of which no row fits is refused, and the refusal
says what was found in it. Nothing here loads a model's weights.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cai.errors import InputError
from cai.files import sha256_of
from cai.models.protocol import TOO_LONG, RowError
from cai.records import Preference, Prompt, Reject, content_id, digest
from cai.store.dataset import open_data
from cai.store.formats.importing import converted
from cai.store.formats.layouts import adapted_rows, detect, layout_named
from cai.store.formats.prompts import prompts_or_errors
from cai.store.formats.rows import Answered, Sort

if TYPE_CHECKING:
    from cai.models.local.chat import ChatFormat
    from cai.models.local.layout import TokenRow

Wants = Literal["answers", "pairs", "labelled", "prompts"]
Values = Iterator[tuple[str, Preference | Answered | Reject]]
STAGE = "train"
WORDS: dict[Wants, str] = {
    "answers": "answers to learn",
    "pairs": "pairs of a chosen and a rejected answer",
    "labelled": "answers with a label, or pairs",
    "prompts": "prompts",
}
_FOUND: dict[Wants, str] = {
    "answers": "answers without a label",
    "pairs": "pairs of answers",
    "labelled": "single answers with a label",
    "prompts": "prompts without answers",
}
_TAKEN_BY: dict[Wants, str] = {
    "answers": "`cai train sft` takes such rows",
    "pairs": "`cai train dpo`, `reward`, `kto` and `sft` take such rows",
    "labelled": "`cai train kto` and `sft` take such rows",
    "prompts": "`cai train ppo`, `grpo` and `rloo` take such rows",
}
_MEASURES_JUDGES = ("llmbar", "hhh")
_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a row offers: its prompt, no answer, one, or a chosen and a rejected one, and how sure its label is."""

    id: str
    place: str
    """File and line."""
    prompt: Prompt
    texts: tuple[str, ...] = ()
    p: float = 1.0


@dataclass
class Reading:
    """Every input is a candidate or a reject. For KTO a pair is two inputs."""

    path: Path
    sha256: str
    layout: str
    candidates: list[Candidate] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    rows: int = 0
    """As the file has them."""

    @property
    def inputs(self) -> int:
        return len(self.candidates) + len(self.rejects)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A candidate's tokens: one row for each answer, or a prompt without an answer."""

    candidate: Candidate
    tokens: "tuple[TokenRow, ...]"

    @property
    def length(self) -> int:
        return max(len(row.prompt_ids) + len(row.completion_ids) for row in self.tokens)


def read_data(path: Path, layout: str, method: str, wants: Wants) -> Reading:
    """All that the data offer to a method; data that offer it nothing are refused."""
    if wants == "prompts":
        reading = _read_prompts(path, layout)
        found = Counter[Wants]()
    else:
        reading, found = _read_answers(path, layout, method, wants)
    if not reading.candidates:
        raise _nothing_fits(reading, found, method, wants)
    return _each_once(reading)


def encoded(reading: Reading, chat: "ChatFormat", limit: int | None, reply: int | None) -> list[Encoded]:
    """The candidates as tokens. Those that cannot be, or are longer than the limit, join the rejects.

    With `reply` a prompt must leave room for an answer of this many tokens.
    """
    kept: list[Encoded] = []
    for candidate in reading.candidates:
        try:
            tokens = _tokens(candidate, chat, reply)
            _check_length(tokens, limit, reply or 0)
        except RowError as error:
            detail = f"{candidate.place}: {error.detail}"
            reading.rejects.append(Reject(candidate.id, STAGE, error.reason, detail))
            continue
        kept.append(Encoded(candidate, tokens))
    reading.candidates = [each.candidate for each in kept]
    if not kept:
        told = f"{_reasons(reading.rejects)}; the last one: {reading.rejects[-1].detail}"
        remedy = "raise --max-tokens, or leave it out" if limit else "shorten or correct the rows"
        raise InputError(str(reading.path), f"of {reading.inputs} rows none is left ({told})", None, remedy)
    return kept


def _tokens(candidate: Candidate, chat: "ChatFormat", reply: int | None) -> "tuple[TokenRow, ...]":
    prompt = candidate.prompt
    if reply is not None:
        from cai.models.local.layout import TokenRow

        ids = chat.encode_prompt(prompt.messages, prompt.tools)
        if (room := chat.room_after(ids, reply)) < reply:
            detail = f"{len(ids)} tokens leave room for {room} more, and an answer may have {reply}"
            raise RowError(TOO_LONG, detail)
        return (TokenRow(ids, ()),)
    return tuple(chat.encode(prompt.messages, text, prompt.tools) for text in candidate.texts)


def _check_length(tokens: "Sequence[TokenRow]", limit: int | None, reply: int) -> None:
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in tokens) + reply
    if limit is not None and longest > limit:
        raise RowError(TOO_LONG, f"{longest} tokens, and --max-tokens is {limit}")


def _read_prompts(path: Path, layout: str) -> Reading:
    if path.is_dir():
        data = open_data(path, None)
        reading = Reading(path, digest(dict(data.sources)), data.layout)
        for row in data.rows():
            reading.rows += 1
            if isinstance(row, Reject):
                reading.rejects.append(row)
            else:
                reading.candidates.append(Candidate(row.prompt.id, path.name, row.prompt))
        return reading
    reading = Reading(path, _digest_of(path), layout or "prompts")
    for read in prompts_or_errors(path):
        reading.rows += 1
        if isinstance(read, InputError):
            place = read.place.removeprefix(f"{path.parent}/")
            name = content_id(STAGE, place)
            reading.rejects.append(Reject(name, STAGE, "no prompt", f"{place}: {read.problem}"))
        else:
            place = read.place.removeprefix(f"{path.parent}/")
            reading.candidates.append(Candidate(read.prompt.id, place, read.prompt))
    return reading


def _read_answers(path: Path, layout: str, method: str, wants: Wants) -> tuple[Reading, Counter[Wants]]:
    found: Counter[Wants] = Counter()
    if path.is_dir():
        sort: Sort = "answers" if wants == "answers" else "preferences"
        data = open_data(path, sort)
        reading = Reading(path, digest(dict(data.sources)), data.layout)
        values: Values = ((path.name, row) for row in data.rows())
    else:
        sha256 = _digest_of(path)
        reading = Reading(path, sha256, layout or _layout(path, method, wants))
        if reading.layout in _MEASURES_JUDGES:
            problem = "is made to measure judges, and is nothing to train on"
            raise InputError(str(path), problem, reading.layout, f"give {WORDS[wants]} of your own")
        values = _file_values(path, reading.layout)
    for place, value in values:
        reading.rows += 1
        if not isinstance(value, Reject):
            found[_sort(value)] += 1
        for made in _offered(value, place, wants):
            (reading.rejects if isinstance(made, Reject) else reading.candidates).append(made)  # type: ignore[arg-type]
    return reading, found


def _file_values(path: Path, layout: str) -> "Values":
    read = layout_named(layout).read
    for row in adapted_rows(path, layout):
        yield f"{path.name}:{row.number}", converted(row, read, path)


def _layout(path: Path, method: str, wants: Wants) -> str:
    try:
        return detect(path).name
    except InputError as error:
        if _holds_prompts(path):
            raise _other(path, "prompts", method, wants) from None
        raise error from None


def _offered(value: Preference | Answered | Reject, place: str, wants: Wants) -> list[Candidate | Reject]:
    if isinstance(value, Reject):
        return [value]
    if isinstance(value, Preference):
        return _offered_by_pair(value, place, wants)
    name, one = value.id, (value.completion,)
    if wants == "pairs":
        return [Reject(name, STAGE, "not a pair", f"{place}: holds a single answer")]
    if wants == "labelled" and value.label is None:
        return [Reject(name, STAGE, "no label", f"{place}: does not say whether the answer is wanted")]
    if wants == "answers" and value.label is False:
        return [Reject(name, STAGE, "unwanted answer", f"{place}: its label is false")]
    return [Candidate(name, place, value.prompt, one, 0.0 if value.label is False else 1.0)]


def _offered_by_pair(pair: Preference, place: str, wants: Wants) -> list[Candidate | Reject]:
    if pair.kind != "preferred":
        detail = f"{place}: p of the chosen answer is {pair.p_chosen:.3f}"
        return [Reject(pair.id, STAGE, pair.kind, detail)]
    if wants == "pairs":
        return [Candidate(pair.id, place, pair.prompt, (pair.chosen, pair.rejected), pair.p_chosen)]
    chosen = Candidate(
        _answer_id(pair.prompt, pair.chosen, wanted=True), place, pair.prompt, (pair.chosen,), pair.p_chosen
    )
    if wants == "answers":
        return [chosen]
    name = _answer_id(pair.prompt, pair.rejected, wanted=False)
    return [chosen, Candidate(name, place, pair.prompt, (pair.rejected,), 1 - pair.p_chosen)]


def _answer_id(prompt: Prompt, text: str, *, wanted: bool) -> str:
    return content_id(STAGE, prompt.id, text, wanted)


def _each_once(reading: Reading) -> Reading:
    """The first of equal rows stays. The rejects keep what the file has of each."""
    seen: dict[str, str] = {}
    kept: list[Candidate] = []
    for candidate in reading.candidates:
        if candidate.id in seen:
            detail = f"{candidate.place}: the same stands in {seen[candidate.id]}"
            reading.rejects.append(Reject(candidate.id, STAGE, "duplicate row", detail))
        else:
            seen[candidate.id] = candidate.place
            kept.append(candidate)
    reading.candidates = kept
    return reading


def _nothing_fits(reading: Reading, found: Counter[Wants], method: str, wants: Wants) -> InputError:
    others = [sort for sort, _ in found.most_common() if sort != wants]
    if others:
        return _other(reading.path, others[0], method, wants)
    if reading.rejects and all(reject.reason == "no answer" for reject in reading.rejects):
        return _other(reading.path, "prompts", method, wants)
    if not reading.rows:
        return InputError(str(reading.path), "is empty", None, f"{method} needs {WORDS[wants]}, one on each line")
    told = f"{_reasons(reading.rejects)}; the first one: {reading.rejects[0].detail}"
    remedy = "`cai data check` says what is wrong with each" if wants != "prompts" else "correct the rows"
    return InputError(str(reading.path), f"of {reading.rows} rows none can be used ({told})", None, remedy)


def _other(path: Path, found: Wants, method: str, wants: Wants) -> InputError:
    problem = f"holds {_FOUND[found]}, and {method} needs {WORDS[wants]}"
    return InputError(str(path), problem, None, _TAKEN_BY[found])


def _holds_prompts(path: Path) -> bool:
    """Whether the first rows are prompts that nobody answered."""
    looked = [row for row, _ in zip(prompts_or_errors(path), range(_LOOKED_AT), strict=False)]
    return bool(looked) and not any(isinstance(row, InputError) for row in looked)


def _sort(value: Preference | Answered) -> Wants:
    if isinstance(value, Preference):
        return "pairs"
    return "answers" if value.label is None else "labelled"


def _reasons(rejects: Sequence[Reject]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in rejects).most_common())


def _digest_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", None, "name a readable file") from None
