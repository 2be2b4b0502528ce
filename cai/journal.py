"""Append-only record streams that are committed together, chunk by chunk.

Each stream is a plain JSON Lines file. `commits.jsonl` has one line for each chunk: where every stream ends, the
SHA-256 of every stream up to there, the caller's note, and a digest chained over all of it and the line before. Opening
a journal checks all of that and cuts every stream back to the last commit. So a killed process loses at most the chunk
that it had not committed, and a file changed by anything else is an error, never a shorter file that looks fine.

What the lines mean is the caller's business; `records` makes and reads them.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cai.errors import CaiError, DamagedFile, InputError
from cai.files import sync_folder
from cai.records import canonical, digest

COMMITS = "commits.jsonl"
_REMEDY = "restore the file from a copy, or remove the folder and run again"


@dataclass(frozen=True)
class Commit:
    """Where each stream ends, in bytes, and its SHA-256 up to there, after one chunk."""

    ends: dict[str, int]
    sha256: dict[str, str]
    note: dict[str, object]
    chain: str


class Journal:
    """The streams of one folder, open for appending. One process at a time: `files.folder_lock` sees to that."""

    def __init__(self, folder: Path, streams: Sequence[str] | None = None) -> None:
        """Without names, the streams are those that were committed, or records and rejects."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            commits, self._commits_end = read_commits(folder)
            self.streams = tuple(streams or (commits[-1].ends if commits else ("records", "rejects")))
            self._refuse_streams_without_commits()
            self._check_stream_names(commits)
            self._hashes = {name: _check_stream(folder, name, commits) for name in self.streams}
            self._ends = dict(commits[-1].ends) if commits else dict.fromkeys(self.streams, 0)
            self._chain = commits[-1].chain if commits else ""
            self.notes: list[dict[str, object]] = [commit.note for commit in commits]
            self._files = {name: _open(_stream_path(folder, name)) for name in self.streams}
            self._commits_file = _open(folder / COMMITS)
            self._cut_back()
            sync_folder(folder)
        except OSError as error:
            raise InputError(
                str(error.filename or folder), f"cannot be opened ({error.strerror})", None, "check the folder"
            ) from error

    @property
    def chunks(self) -> int:
        """How many chunks are committed."""
        return len(self.notes)

    def commit(self, lines: Mapping[str, Sequence[str]], note: Mapping[str, object] | None = None) -> None:
        """Append one chunk to the streams. When this returns it is on the disk; when it raises nothing was added."""
        assert lines.keys() <= set(self.streams), f"{sorted(lines)} are not all among {self.streams}"
        data = {name: _as_bytes(lines[name]) for name in self.streams if lines.get(name)}
        ends, hashes = dict(self._ends), dict(self._hashes)
        for name, content in data.items():
            ends[name] += len(content)
            hashes[name] = hashes[name].copy()
            hashes[name].update(content)
        body = _body(len(self.notes), ends, {name: hashes[name].hexdigest() for name in self.streams}, note or {})
        chain = digest([self._chain, body])
        entry = (canonical({**body, "chain": chain}) + "\n").encode()
        kept = json.loads(entry)["note"]
        try:
            for name, content in data.items():
                _append(self._files[name], content)
            _append(self._commits_file, entry)
        except BaseException as error:
            self._cut_back()
            if isinstance(error, OSError):
                raise CaiError(
                    f"{self.folder}: cannot be written ({error.strerror}); make room and run the same command again"
                ) from error
            raise
        self._ends, self._hashes, self._chain = ends, hashes, chain
        self._commits_end += len(entry)
        self.notes.append(kept)

    def close(self) -> None:
        for handle in (*self._files.values(), self._commits_file):
            handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _cut_back(self) -> None:
        """Leave every file at the last commit. The commits go first, so that none can point past its stream."""
        self._commits_file.truncate(self._commits_end)
        for name, handle in self._files.items():
            handle.truncate(self._ends[name])

    def _refuse_streams_without_commits(self) -> None:
        # The commits file is made before the first chunk is written, so without it the streams are not ours to cut.
        if (self.folder / COMMITS).exists():
            return
        for name in self.streams:
            path = _stream_path(self.folder, name)
            if path.exists() and path.stat().st_size:
                raise DamagedFile(str(self.folder / COMMITS), f"is missing beside {path.name}", None, _REMEDY)

    def _check_stream_names(self, commits: list[Commit]) -> None:
        if commits and set(commits[-1].ends) != set(self.streams):
            raise DamagedFile(
                str(self.folder / COMMITS), f"does not commit {', '.join(self.streams)}", [*commits[-1].ends], _REMEDY
            )


def read_commits(folder: Path) -> tuple[list[Commit], int]:
    """The commits of a folder, and the offset where the last of them ends. A torn last line is left out."""
    path = folder / COMMITS
    commits: list[Commit] = []
    offset = 0
    chain = ""
    for line in io.BytesIO(path.read_bytes() if path.exists() else b""):
        complete = line.endswith(b"\n")
        # A torn line is the beginning of a commit. A whole commit with another last byte was changed afterwards.
        commit = _parsed(line[:-1], len(commits), chain)
        if commit is None and not complete:
            break
        if commit is None or not complete:
            raise DamagedFile(str(path), f"is damaged at byte {offset}", None, _REMEDY)
        commits.append(commit)
        chain = commit.chain
        offset += len(line)
    return commits, offset


def read_lines(path: Path) -> Iterator[str]:
    """The complete lines of a stream, without their ends; a last line that is still being written is left out."""
    offset = 0
    try:
        with open(path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    return
                yield line[:-1].decode()
                offset += len(line)
    except FileNotFoundError:
        raise InputError(str(path), "there is no such file", None, "check the path") from None
    except UnicodeDecodeError:
        raise DamagedFile(str(path), f"is not UTF-8 in the line at byte {offset}", None, _REMEDY) from None


def _stream_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _body(number: int, ends: dict[str, int], sha256: dict[str, str], note: Mapping[str, object]) -> dict[str, object]:
    return {"chunk": number, "ends": ends, "note": dict(note), "sha256": sha256}


def _parsed(line: bytes, number: int, chain: str) -> Commit | None:
    """The commit on this line, or None unless it is, byte for byte, what was written after the one before."""
    try:
        value = json.loads(line)
        commit = Commit(value["ends"], value["sha256"], value["note"], value["chain"])
    except (ValueError, KeyError, TypeError):
        return None
    body = _body(number, commit.ends, commit.sha256, commit.note)
    expected = canonical({**body, "chain": digest([chain, body])}).encode()
    return commit if line == expected else None


def _check_stream(folder: Path, name: str, commits: list[Commit]) -> "hashlib._Hash":
    """The running digest of a stream up to its last commit; the chunk that differs is named."""
    running = hashlib.sha256()
    path = _stream_path(folder, name)
    if not path.exists():
        if commits and commits[-1].ends[name]:
            raise DamagedFile(str(path), "is missing", None, _REMEDY)
        return running
    with open(path, "rb") as handle:
        start = 0
        for commit in commits:
            end = commit.ends[name]
            content = handle.read(end - start)
            running.update(content)
            if len(content) < end - start:
                raise DamagedFile(str(path), f"is cut at byte {start + len(content)} of {end}", None, _REMEDY)
            if running.hexdigest() != commit.sha256[name]:
                raise DamagedFile(str(path), f"is damaged between byte {start} and byte {end}", None, _REMEDY)
            start = end
    return running


def _open(path: Path) -> BinaryIO:
    path.touch()
    # Unbuffered, so that nothing of a failed chunk is left to be written later.
    return open(path, "ab", buffering=0)


def _append(handle: BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[handle.write(rest) :]
    os.fsync(handle.fileno())


def _as_bytes(lines: Sequence[str]) -> bytes:
    for line in lines:
        assert "\n" not in line, f"a record must be one line: {line!r}"
    return "".join(f"{line}\n" for line in lines).encode()
