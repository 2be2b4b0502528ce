"""`metrics.jsonl`: one line for each update, without timings, so that equal trainings write equal bytes."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cai.errors import DamagedFile
from cai.records import canonical


@dataclass(frozen=True, slots=True)
class CurveMark:
    """How much of the file a checkpoint stands on."""

    bytes: int
    sha256: str


class Curve:
    """The file, open for appending after a mark; whatever stood behind the mark is cut off."""

    def __init__(self, path: Path, mark: CurveMark | None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = mark.bytes if mark else 0
        kept = path.read_bytes()[:size] if size and path.exists() else b""
        self._sha256 = hashlib.sha256(kept)
        if mark and self._sha256.hexdigest() != mark.sha256:
            remedy = "restore the file, or remove this folder to train again"
            raise DamagedFile(str(path), "differs from what the checkpoint stands on", None, remedy)
        self._file = open(path, "ab")  # noqa: SIM115 - held until close
        self._file.truncate(size)
        self._size = size
        self.history: list[Mapping[str, float]] = [json.loads(line) for line in kept.splitlines()]
        """Every update's metrics with its `step`, in order."""

    def append(self, number: int, metrics: Mapping[str, float]) -> None:
        self.history.append({"step": number, **metrics})
        line = (canonical(self.history[-1]) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        self._sha256.update(line)
        self._size += len(line)

    def mark(self) -> CurveMark:
        """Everything appended so far, on the disk."""
        os.fsync(self._file.fileno())
        return CurveMark(self._size, self._sha256.hexdigest())

    def close(self) -> None:
        self._file.close()
