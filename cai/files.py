"""Files written whole or not at all, folders owned by one process, and digests of files.

Records that grow while a stage runs are `journal`'s; what a finished folder holds is `manifest`'s.
"""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from cai.errors import CaiError, FolderInUse, InputError

LOCK_NAME = ".lock"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""What `write_atomic` calls a file that is not whole yet."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a restart after a crash, sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    # The dot keeps a temporary file that a crash leaves behind out of manifests.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise CaiError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def growing_files(folder: Path, *names: str) -> Iterator[Mapping[str, TextIO]]:
    """Text files that grow while the block runs and are there when it ends; if it raises, none of them is."""
    parts = {name: folder / f".{name}.part" for name in names}
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(part, "w", encoding="utf-8")) for name, part in parts.items()}
            yield files
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        for name, part in parts.items():
            part.replace(folder / name)
        sync_folder(folder)
    except OSError as error:
        place = error.filename or folder
        raise CaiError(f"{place}: cannot be used ({error.strerror}); check the folder and the disk") from error
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Own a folder until the block ends or the process dies. The lock file stays: removing it would be a race. What an
    owner that died was about to write is removed."""
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(str(folder), f"cannot be written ({error.strerror})", None, "choose another folder") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise FolderInUse(
                str(folder), f"process {owner} is working in this folder", None, "wait for it or stop it"
            ) from None
        died = os.fstat(descriptor).st_size > 0
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        if died:
            _sweep(folder)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    for path in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make names that were just created or replaced in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
