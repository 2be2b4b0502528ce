"""Where a model lies on this machine, found within seconds or refused: `tiny`, a folder, or a hub id.

A folder is looked through before anything in it is loaded: safetensors only, no code of its own. Loading it is
`loading`'s. Which commit a run keeps to when it names a branch, is the pipeline's.
"""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from cai.errors import InputError, MissingModel
from cai.models.tiny.weights import FOLDER as TINY

PROBE_SECONDS = 4.0
"""Longest wait for the hub's first answer; a missing model is refused within 5 seconds."""
_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "*.tiktoken"]
_IGNORED = ["*/*", "consolidated*"]
"""Folders beside the model, and second copies of its weights in other layouts."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine. `revision` is the hub's commit; None for a folder."""

    name: str
    folder: Path
    revision: str | None


def find_model(base: str, revision: str | None) -> Found:
    """The folder of a model, checked; hub models are fetched when they are not in the cache."""
    if base == "tiny":
        _check_folder(base, TINY)
        return Found("tiny", TINY, None)
    path = Path(base).expanduser()
    if path.is_dir():
        _check_folder(base, path)
        return Found(path.resolve().name, path.resolve(), None)
    wanted = _hub_revision(base, revision)
    folder = _cached(base, wanted) or _fetched(base, wanted)
    _check_folder(base, folder)
    commit = folder.name if folder.parent.name == "snapshots" else wanted
    return Found(base.rpartition("/")[2], folder, commit)


def find_config(base: str, revision: str | None) -> Path:
    """The model's folder where it is on this machine; else its config.json alone, fetched from the hub."""
    if base == "tiny":
        return TINY
    path = Path(base).expanduser()
    if path.exists():
        return path
    wanted = _hub_revision(base, revision)
    if folder := _cached(base, wanted):
        return folder
    _refuse_offline(base)
    with _told(base, wanted):
        _within(PROBE_SECONDS, lambda: HfApi().model_info(base, revision=wanted, timeout=PROBE_SECONDS - 1))
        return Path(hf_hub_download(base, "config.json", revision=wanted, etag_timeout=PROBE_SECONDS))


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never moves; branches and tags do."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _hub_revision(base: str, revision: str | None) -> str:
    """The revision to ask the hub for, once `base` was found to look like a hub id."""
    if Path(base).is_absolute() or base.startswith((".", "~")) or base.count("/") != 1 or not all(base.split("/")):
        raise MissingModel(
            base, "there is no such model folder", None, "give `tiny`, a folder, or a hub id such as org/name"
        )
    if revision is None:
        raise InputError(
            base,
            "a hub model needs a pinned revision",
            None,
            f"set `revision` to a commit of huggingface.co/{base}, or to a branch, whose commit a run then keeps to",
        )
    return revision


def _cached(base: str, revision: str) -> Path | None:
    try:
        found = snapshot_download(
            base, revision=revision, local_files_only=True, allow_patterns=_FILES, ignore_patterns=_IGNORED
        )
    except (FileNotFoundError, ValueError):
        return None
    return Path(found) if _is_complete(Path(found)) else None


def _is_complete(folder: Path) -> bool:
    """Whether a cached snapshot holds its configuration and every weight file that it names."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return any(folder.glob("*.safetensors"))
    return all((folder / name).is_file() for name in set(_read_json(index).get("weight_map", {}).values()))


def _fetched(base: str, revision: str) -> Path:
    _refuse_offline(base)
    with _told(base, revision):
        info = _within(PROBE_SECONDS, lambda: HfApi().model_info(base, revision=revision, timeout=PROBE_SECONDS - 1))
    names = [sibling.rfilename for sibling in info.siblings or ()]
    if not any(name.endswith(".safetensors") for name in names):
        _refuse_weights(base, [name for name in names if name.endswith(_PICKLES)])
    with _told(base, revision, answered=True):
        found = snapshot_download(
            base, revision=revision, etag_timeout=PROBE_SECONDS, allow_patterns=_FILES, ignore_patterns=_IGNORED
        )
    return Path(found)


def _refuse_offline(base: str) -> None:
    if constants.is_offline_mode() or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        _missing(base, "is not in the cache, and the hub may not be asked (offline mode)", "go online or give a folder")


@contextmanager
def _told(base: str, revision: str, *, answered: bool = False) -> Iterator[None]:
    """What the hub or the way to it says no with, in our words; `answered` is whether it had answered before."""
    try:
        yield
    except errors.GatedRepoError:
        _missing(base, "is gated", f"ask for access at huggingface.co/{base}, then run `hf auth login`")
    except errors.RevisionNotFoundError:
        raise MissingModel(base, "has no such revision", revision, "give one of its commits") from None
    except errors.RepositoryNotFoundError:
        _missing(base, "is not on the hub, or is private", "check the id, or run `hf auth login`")
    except errors.HFValidationError as error:
        _missing(base, f"is no hub id ({error})", "give `tiny`, a folder, or a hub id such as org/name")
    except (HTTPError, OSError) as error:
        kind = type(error).__name__
        if answered:
            _missing(
                base,
                f"could not be fetched whole ({kind})",
                "give the same command again: files that are whole are kept",
            )
        _missing(
            base,
            f"is not in the cache, and the hub does not answer ({kind})",
            "check the connection, or give a folder",
        )


def _within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """The answer, or `TimeoutError`: name resolution has no timeout of its own, so a thread is left behind instead."""
    outcome: list[Answer | Exception] = []

    def run() -> None:
        try:
            outcome.append(ask())
        except (HTTPError, OSError, ValueError) as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _check_folder(base: str, folder: Path) -> None:
    """Refuse what would run code or unpickle, before transformers sees it."""
    if not (folder / "config.json").is_file():
        _missing(base, f"has no config.json in {folder}", "give the folder of a transformers model")
    for name in ("config.json", "tokenizer_config.json"):
        plain = _read_json(folder / name) if (folder / name).is_file() else {}
        if "auto_map" in plain:
            raise InputError(
                f"{folder / name}", "asks to run code from the model's repository (auto_map)", None, "use another model"
            )
    if "quantization_config" in _read_json(folder / "config.json"):
        raise InputError(
            f"{folder / 'config.json'}", "is already quantised", None, "use the full-precision model; cai quantises it"
        )
    if not any(folder.glob("*.safetensors")):
        _refuse_weights(base, [path.name for path in sorted(folder.iterdir()) if path.suffix in _PICKLES])
    if not _is_complete(folder):
        _missing(base, "lacks some of the weight files that its index names", "copy or fetch it again")


def _refuse_weights(base: str, pickles: list[str]) -> NoReturn:
    if pickles:
        raise InputError(
            base, "has its weights only as a pickle, which can run code", pickles[0], "convert it to safetensors"
        )
    _missing(base, "has no safetensors weights", "give a model with weights")


def _missing(base: str, problem: str, remedy: str) -> NoReturn:
    raise MissingModel(base, problem, None, remedy) from None


def _read_json(path: Path) -> dict[str, dict[str, str]]:
    try:
        plain = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(str(path), f"is not JSON: {error}", None, "copy or fetch the model again") from error
    if not isinstance(plain, dict):
        raise InputError(str(path), "is not a JSON object", None, "copy or fetch the model again")
    return plain
