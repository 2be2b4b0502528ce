"""Loading a found model: weights, tokenizer, chat format, and the digest of exactly these weights.

What a role does with the model is `workbench`'s; which files may be loaded at all was `finding`'s.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cai.errors import InputError, MissingModel
from cai.models.local.chat import ChatFormat
from cai.models.local.digests import weights_digest
from cai.models.local.finding import Found
from cai.models.local.machine import free_memory, total_memory
from cai.models.local.memory import GPU_REPLICA_SHARE, REPLICA_SHARE, keeps_dense_copies
from cai.models.local.network import Network
from cai.models.local.spec import ModelSpec
from cai.models.local.upstream import compute_dtype, keep_dense_copies, load_network, load_tokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    network: Network
    chat: ChatFormat
    stop_ids: frozenset[int]
    """Ids that end a reply: the template's end of turn and whatever the model itself calls an end."""
    weights_digest: str
    dense_bytes: int
    """Memory taken by dense copies of 4-bit weights; 0 where the 4-bit layers compute themselves."""


def load(spec: ModelSpec, found: Found) -> Loaded:
    device = pick_device(spec.device)
    dtype = compute_dtype(device, spec.precision)
    place = str(found.folder)
    chat = load_chat(spec, found)
    with _loadable(place):
        model = load_network(found.folder, spec.quantization, device, dtype)
    network = Network(model, place)
    if chat.vocabulary > network.vocab_size:
        raise InputError(
            place, "the tokenizer has more tokens than the model", f"{chat.vocabulary} > {network.vocab_size}"
        )
    dense_bytes = 0
    if device == "cpu" and keeps_dense_copies(_parameters(found.folder) * dtype.itemsize, total_memory()):
        dense_bytes = keep_dense_copies(model)
    # Each lane would unpack the same weights for itself.
    network.lanes &= spec.quantization == "none" or dense_bytes > 0
    config: Any = model.generation_config
    own_ends = config.eos_token_id if config is not None else None
    ends = own_ends if isinstance(own_ends, list) else [own_ends]
    stop_ids = frozenset(i for i in (*ends, chat.end_of_text, chat.end_of_turn) if i is not None)
    return Loaded(network, chat, stop_ids, weights_digest(found.folder), dense_bytes)


def load_chat(spec: ModelSpec, found: Found) -> ChatFormat:
    """How the model's conversations become tokens; without its weights, in a moment."""
    with _loadable(str(found.folder)):
        return ChatFormat(load_tokenizer(found.folder), spec.base, spec.template, spec.clock, _context(found.folder))


@contextmanager
def _loadable(place: str) -> Iterator[None]:
    """What the libraries say of files that they cannot read, in our words."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise MissingModel(
            place, f"cannot be loaded: {first_line}", None, "copy or fetch the model again, or give another"
        ) from error


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
    return total_memory() // REPLICA_SHARE if device == "cpu" else free_memory(device) // GPU_REPLICA_SHARE


def _context(folder: Path) -> int | None:
    plain = json.loads((folder / "config.json").read_text("utf-8"))
    length = plain.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def _parameters(folder: Path) -> int:
    """An upper estimate of the number of weights, from the files' sizes at two bytes each."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 2
