"""What a finished folder holds. The manifest is written last, so a folder without one is unfinished.

Hidden files (a lock, a temporary file that a crash left) are not part of what a folder holds. What a stage's counts and
facts mean is the stage's business.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from cai.errors import DamagedFile, InputError
from cai.files import sha256_of, write_atomic
from cai.records import as_dict, digest

NAME = "manifest.json"
_REMEDY = "restore it from a copy, or remove the folder and run again"


@dataclass(frozen=True)
class FileFact:
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """Which stage made the folder, from what, and what came out; `files` are paths below the folder."""

    stage: str
    version: int
    digest: str
    inputs: dict[str, str]
    counts: dict[str, int]
    facts: dict[str, object]
    files: dict[str, FileFact]


def write_manifest(
    folder: Path,
    stage: str,
    version: int,
    digest: str,
    inputs: dict[str, str],
    counts: dict[str, int],
    facts: dict[str, object],
) -> Manifest:
    """Finish a folder: every file below it is hashed."""
    files = {name: _fact(folder / name) for name in _file_names(folder)}
    manifest = Manifest(stage, version, digest, inputs, counts, facts, files)
    plain = _plain(manifest)
    write_atomic(folder / NAME, json.dumps({**plain, "check": _check(plain)}, indent=2, ensure_ascii=False) + "\n")
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder, itself intact; None when the folder is unfinished."""
    path = folder / NAME
    try:
        plain = json.loads(path.read_bytes())
        check = plain.pop("check")
        manifest = Manifest(**{**plain, "files": {name: FileFact(**fact) for name, fact in plain["files"].items()}})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFile(str(path), "is not a manifest", None, _REMEDY) from None
    if check != _check(plain):
        raise DamagedFile(str(path), "was changed after it was written", None, _REMEDY)
    return manifest


def verify_manifest(folder: Path) -> Manifest:
    """The manifest, after every file that it names was found unchanged."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(str(folder), "is not finished: it has no manifest", None, "run the same command again")
    for name, fact in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DamagedFile(str(path), "is missing", None, _REMEDY)
        if _fact(path) != fact:
            raise DamagedFile(str(path), "was changed after the folder was finished", None, _REMEDY)
    return manifest


def _file_names(folder: Path) -> list[str]:
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts) and str(p) != NAME)


def _fact(path: Path) -> FileFact:
    return FileFact(sha256_of(path), path.stat().st_size)


def _plain(manifest: Manifest) -> dict[str, object]:
    return {**as_dict(manifest), "files": {name: dataclasses.asdict(fact) for name, fact in manifest.files.items()}}


def _check(plain: dict[str, object]) -> str:
    return digest(plain)
