"""The digest of a model's files, by which equal models are known wherever they lie. No torch."""

import os
import re
from pathlib import Path

from cai.files import sha256_of, write_atomic
from cai.records import digest

_REMEMBERED_FROM = 64 << 20
"""Digests of files from this size on are remembered between processes."""


def weights_digest(folder: Path) -> str:
    """A digest of configuration, tokenizer and weights: equal folders have equal digests wherever they lie."""
    names = sorted(p.name for p in folder.iterdir() if p.suffix in {".json", ".safetensors", ".jinja", ".model"})
    return digest({name: _file_digest(folder / name) for name in names})


def _file_digest(path: Path) -> str:
    """SHA-256 of a file. The hub's cache names large files by it; other large ones are hashed once and remembered."""
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    facts = target.stat()
    if facts.st_size < _REMEMBERED_FROM:
        return sha256_of(target)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cai" / "digests"
    entry = cache / digest([str(target), facts.st_size, facts.st_mtime_ns, facts.st_ino])[:32]
    if entry.is_file():
        return entry.read_text("ascii")
    found = sha256_of(target)
    write_atomic(entry, found)
    return found
