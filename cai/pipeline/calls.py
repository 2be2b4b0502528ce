"""What a local model said in the other stage folders of this run, so that an edit asks anew only what it changed.

Each stage that asks for feedback keeps its calls beside its records, committed with them. A stage that begins looks at
what the other folders hold at that moment and writes down how far: a resumed stage reads no more than that, and makes
the same batches. Remote models keep their replies themselves.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Generic, TypeVar, cast

from cai.errors import DamagedFile
from cai.files import write_atomic
from cai.journal import COMMITS, read_commits
from cai.models.protocol import Choice, ChoiceRequest, Failed, Finish, Model, Reply, Request
from cai.records import as_dict, canonical, digest

STREAM = "calls"
READ = "calls-read.json"
"""Which other folders' calls a stage may use, and up to which byte."""

Value = dict[str, object]


class Calls:
    """Owns what is known of earlier calls; what is said now is kept here until the chunk is committed."""

    def __init__(self, folder: Path) -> None:
        self.recalled = 0
        """How many calls needed no model."""
        self._said: dict[str, Value] = {}
        self._places: dict[int, tuple[Path, int]] = {}
        for name, end in _readable(folder).items():
            self._index(folder.parent / name / f"{STREAM}.jsonl", end)

    def get(self, key: str) -> Value | None:
        if key in self._said:
            return self._said[key]
        place = self._places.get(_number(key))
        if place is None:
            return None
        path, offset = place
        with open(path, "rb") as file:
            file.seek(offset)
            line = json.loads(file.readline())
        # Half of the key is the index; the whole of it stands in the line.
        return cast(Value, line["said"]) if line["key"] == key else None

    def keep(self, key: str, value: Value) -> None:
        self._said[key] = value

    def taken(self) -> list[str]:
        """The lines of what was said since the last time, in order."""
        lines = [canonical({"key": key, "said": value}) for key, value in self._said.items()]
        self._said = {}
        return lines

    def forget(self) -> None:
        """Drops what was said since the last commit: an attempt that failed must leave no trace."""
        self._said = {}

    def _index(self, path: Path, end: int) -> None:
        if not path.exists():
            return  # Somebody removed the folder: then its calls are made again.
        with open(path, "rb") as file:
            offset = 0
            while offset < end:
                line = file.readline()
                try:
                    key = str(json.loads(line)["key"])
                except (ValueError, KeyError, TypeError):
                    raise DamagedFile(
                        f"{path}:{offset}", "is no call", None, "remove its folder and run again"
                    ) from None
                self._places.setdefault(_number(key), (path, offset))
                offset += len(line)


class Remembering:
    """A local model that is asked only what was not said before. Equal requests give equal replies, so none is lost."""

    def __init__(self, model: Model, calls: Calls) -> None:
        self._model = model
        self._calls = calls
        self.name = model.name
        self.fingerprint = model.fingerprint

    def generate(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        assert not any(request.logprobs for request in requests), "a remembered reply has no log-probabilities"
        return _GENERATING.answered(self._model.generate, requests, self.fingerprint, self._calls)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice | Failed]:
        return _CHOOSING.answered(self._model.choose, requests, self.fingerprint, self._calls)


Asked = TypeVar("Asked", Request, ChoiceRequest)
Told = TypeVar("Told", Reply, Choice)


@dataclass(frozen=True)
class _Kind(Generic[Asked, Told]):
    """One of the two things that a model can do: how its results are written down and read back."""

    name: str
    write: Callable[[Told], Value]
    read: Callable[[Value], Told]

    def answered(
        self,
        ask: Callable[[Sequence[Asked]], Sequence[Told | Failed]],
        requests: Sequence[Asked],
        fingerprint: str,
        calls: Calls,
    ) -> list[Told | Failed]:
        keys = [digest([self.name, fingerprint, as_dict(request)]) for request in requests]
        known = {key: value for key in dict.fromkeys(keys) if (value := calls.get(key)) is not None}
        missing = [i for i, key in enumerate(keys) if key not in known]
        fresh = dict(zip(missing, ask([requests[i] for i in missing]) if missing else [], strict=True))
        results: list[Told | Failed] = []
        for i, key in enumerate(keys):
            result = fresh[i] if i in fresh else self.read(known[key])
            if i in fresh and not isinstance(result, Failed):
                calls.keep(key, self.write(result))
            results.append(result)
        calls.recalled += len(requests) - len(missing)
        return results


def _reply_written(reply: Reply) -> Value:
    return {"text": reply.text, "finish": reply.finish, "tokens": [reply.prompt_tokens, reply.completion_tokens]}


def _reply_read(value: Value) -> Reply:
    prompt, completion = cast("list[int]", value["tokens"])
    return Reply(str(value["text"]), cast(Finish, value["finish"]), prompt, completion)


def _choice_written(choice: Choice) -> Value:
    told = [None if value == -inf else value for value in choice.logprobs]
    return {"logprobs": told, "way": choice.way, "tokens": choice.tokens}


def _choice_read(value: Value) -> Choice:
    told = cast("list[float | None]", value["logprobs"])
    return Choice(tuple(-inf if p is None else p for p in told), str(value["way"]), cast(int, value["tokens"]))


_GENERATING: _Kind[Request, Reply] = _Kind("generate", _reply_written, _reply_read)
_CHOOSING: _Kind[ChoiceRequest, Choice] = _Kind("choose", _choice_written, _choice_read)


def _readable(folder: Path) -> dict[str, int]:
    """The other folders with calls and where they end, as this stage saw them when it began."""
    path = folder / READ
    if path.exists():
        try:
            return {str(name): int(end) for name, end in json.loads(path.read_text("utf-8")).items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise DamagedFile(str(path), "is no list of folders", None, "remove the folder and run again") from error
    found = {}
    for other in sorted(folder.parent.glob(f"*/{STREAM}.jsonl")):
        if other.parent != folder and (other.parent / COMMITS).exists():
            commits, _ = read_commits(other.parent)
            if commits and commits[-1].ends.get(STREAM):
                found[other.parent.name] = commits[-1].ends[STREAM]
    write_atomic(path, json.dumps(found, indent=1) + "\n")
    return found


def _number(key: str) -> int:
    """A key as the index has it: a number takes a third of the memory."""
    return int(key[:16], 16)
