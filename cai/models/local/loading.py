"""Loading a found model: weights, tokenizer, chat format, and the digest of exactly these weights.

What a role does with the model is `workbench`'s; which files may be loaded at all was `finding`'s.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cai.errors import InputError, MissingModel
from cai.files import sha256_of, write_atomic
from cai.models.local.chat import ChatFormat
from cai.models.local.finding import Found
from cai.models.local.machine import total_memory
from cai.models.local.memory import REPLICA_SHARE, keeps_dense_copies
from cai.models.local.network import Network
from cai.models.local.spec import ModelSpec
from cai.models.local.upstream import keep_dense_copies, load_network, load_tokenizer
from cai.records import digest

_REMEMBERED_FROM = 64 << 20
"""Digests of files from this size on are remembered between processes."""


@dataclass(frozen=True, slots=True)
class Loaded:
    network: Network
    chat: ChatFormat
    stop_ids: frozenset[int]
    """Ids that end a reply: the template's end of turn and whatever the model itself calls an end."""
    weights_digest: str
    dense_bytes: int
    """Memory taken by fp32 copies of 4-bit weights; 0 where the 4-bit layers compute themselves."""


def load(spec: ModelSpec, found: Found) -> Loaded:
    device = pick_device(spec.device)
    place = str(found.folder)
    try:
        tokenizer = load_tokenizer(found.folder)
        context = _context(found.folder)
        chat = ChatFormat(tokenizer, spec.base, spec.template, spec.clock, context)
        model = load_network(found.folder, spec.quantization, device)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise MissingModel(
            place, f"cannot be loaded: {first_line}", None, "copy or fetch the model again, or give another"
        ) from error
    network = Network(model, place)
    if len(tokenizer) > network.vocab_size:
        raise InputError(
            place, "the tokenizer has more tokens than the model", f"{len(tokenizer)} > {network.vocab_size}"
        )
    dense_bytes = 0
    if device == "cpu" and keeps_dense_copies(_parameters(found.folder), total_memory()):
        dense_bytes = keep_dense_copies(model)
    config: Any = model.generation_config
    own_ends = config.eos_token_id if config is not None else None
    ends = own_ends if isinstance(own_ends, list) else [own_ends]
    stop_ids = frozenset(i for i in (*ends, tokenizer.eos_token_id, chat.end_of_turn) if i is not None)
    return Loaded(network, chat, stop_ids, weights_digest(found.folder), dense_bytes)


def pick_device(wanted: str) -> str:
    """`auto` is a GPU where there is one."""
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", wanted) is None:
        raise InputError("device", "is not a device", wanted, "choose auto, cpu, cuda or cuda:N")
    if wanted.startswith("cuda") and int(wanted.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise InputError("device", "this machine has no such GPU", wanted, "choose auto or cpu")
    return wanted if wanted != "cuda" else "cuda:0"


def replica_budget(device: str) -> int:
    """Bytes that dense copies of adapted weights may take: an eighth of a machine's memory, a third of a GPU's rest."""
    return total_memory() // REPLICA_SHARE if device == "cpu" else torch.cuda.mem_get_info(device)[0] // 3


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


def _context(folder: Path) -> int | None:
    plain = json.loads((folder / "config.json").read_text("utf-8"))
    length = plain.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _parameters(folder: Path) -> int:
    """An upper estimate of the number of weights, from the files' sizes at two bytes each."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 2
