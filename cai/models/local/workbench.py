"""The workbench: the one resident base model of a process, and the roles it hands out as views of it.

A role is the base, or an adapter on it, which may have a scalar head; nothing is merged, nothing is loaded twice.
Losses and loops are `cai.train`'s.
"""

import os
import platform
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from cai.errors import InputError
from cai.files import sha256_of
from cai.models.local.chat import ChatFormat
from cai.models.local.compiled import compiler
from cai.models.local.finding import Found, find_model
from cai.models.local.fitting import require_loadable
from cai.models.local.graphs import recorder
from cai.models.local.loading import load, pick_device, replica_budget
from cai.models.local.logprobs import TokenRow, hidden_at
from cai.models.local.lora import WEIGHTS, Adapters, Origin, read_config, scores
from cai.models.local.prefix import Kept
from cai.models.local.replica import Replicas
from cai.models.local.roles import Trainee
from cai.models.local.scorer import Scorer
from cai.models.local.spec import LoraSpec, ModelSpec
from cai.models.local.steps import Steps
from cai.models.local.view import Bench, Limits, LocalModel
from cai.models.local.width import width_beside
from cai.records import Message, digest

__all__ = ["LoraSpec", "ModelSpec", "Workbench", "open_workbench"]

KEPT_BYTES = 512 << 20
"""Memory for keys and values that may be needed again."""


def open_workbench(spec: ModelSpec, *, check_memory: bool = True) -> "Workbench":
    """Load a model once. One that is not there, gated or unsafe is refused within 5 seconds, one that is too large
    for what is free at once."""
    found = find_model(spec.base, spec.revision)
    device = pick_device(spec.device)
    if check_memory:
        require_loadable(spec, found.folder, device)
    _be_deterministic(device)
    return Workbench(spec, found)


class Workbench:
    """Owns the base model; hands out views, trainees and scorers, as many as there is memory for."""

    def __init__(self, spec: ModelSpec, found: Found) -> None:
        self.spec = spec
        self._found = found
        self._loaded = load(spec, found)
        self.network = self._loaded.network
        self.device = str(self.network.device)
        self.dense_bytes = self._loaded.dense_bytes
        self._adapters = Adapters(self.network.model)
        budget = replica_budget(self.device)
        self.limits = Limits(width_beside(spec, found.folder, self.device, budget))
        replicas, steps = Replicas(self.network.model, budget), Steps(self.network, recorder(self.network.device))
        lock, kept = threading.RLock(), Kept(KEPT_BYTES)
        self._bench = Bench(self._loaded, self._adapters, lock, kept, replicas, steps, self.limits)
        self._views: dict[str, tuple[str, LocalModel]] = {}
        self._made = 0
        chat, weights = self._loaded.chat.fingerprint, self._loaded.weights_digest
        decides = [weights, found.revision, spec.quantization, chat, *spec.own_precision.values()]
        self.fingerprint = digest(decides)
        self.facts = self._facts()

    def view(self, adapter: Path | None = None) -> LocalModel:
        """The base, or the base with an adapter folder. The same folder's content gives the same view again."""
        if adapter is None:
            return LocalModel(self._bench, self._found.name, None, lambda: self.fingerprint)
        _require(adapter, head=False)
        key = adapter_digest(adapter)
        if key not in self._views:
            name = self._new_name("view")
            with self._bench.lock:
                self._adapters.add_from(name, adapter)
            fingerprint = digest([self.fingerprint, key])
            view = LocalModel(self._bench, f"{self._found.name}+{key[:8]}", name, lambda: fingerprint)
            self._views[key] = name, view
        return self._views[key][1]

    def encode(self, messages: Sequence[Message], completion: str, tools: Sequence[dict[str, object]] = ()) -> TokenRow:
        """A conversation and its answer as tokens; `RowError` when they cannot be told apart."""
        return self._loaded.chat.encode(messages, completion, tools)

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> tuple[int, ...]:
        return self._loaded.chat.encode_prompt(messages, tools)

    def answer_logits(self, adapter: Path | None, row: TokenRow) -> torch.Tensor:
        """The logits (T, V) from which each completion token was drawn, in fp32 on the CPU."""
        self.view(adapter)
        name = None if adapter is None else self._views[adapter_digest(adapter)][0]
        sequence, start = (*row.prompt_ids, *row.completion_ids[:-1]), len(row.prompt_ids) - 1
        with self._bench.lock, self._adapters.active(name), torch.inference_mode():
            hidden_TD = hidden_at(self.network, [sequence], [range(start, len(sequence))])
            return self.network.logits(hidden_TD).float().cpu()

    def trainee(self, start: Path | None, seed: int) -> Trainee:
        """A trainable adapter: a fresh one compared with the base, or a copy of `start` compared with `start`."""
        if start is not None:
            _require(start, head=False)
        policy, reference = self._new_name("policy"), None
        self._make_room()
        with self._bench.lock:
            if start is None:
                self._adapters.add_fresh(policy, self.spec.lora, seed)
            else:
                reference = self._new_name("reference")
                self._adapters.add_from(policy, start)
                self._adapters.add_from(reference, start)
        return Trainee(self._bench, (policy, reference), self.origin, self._found.name, self.fingerprint)

    def forget(self) -> None:
        """Drop what is kept of earlier calls, so that the next ones do not depend on them to the last bit."""
        with self._bench.lock:
            self._bench.kept.clear()

    def scorer(self, folder: Path) -> Scorer:
        """A frozen reward or value model, read from the folder that a scoring trainee saved."""
        _require(folder, head=True)
        name = self._new_name("scorer")
        with self._bench.lock:
            self._adapters.add_from(name, folder)
        return Scorer(self._bench, name, self.origin, self.fingerprint, trains=False)

    def scoring_trainee(self, start: Path | None, seed: int, head: Literal["drawn", "zero"] = "drawn") -> Scorer:
        """A trainable scorer: on a fresh adapter or on a copy of `start`. It goes on with the head of `start`, and
        where there is none begins with one drawn from the seed (a reward) or with zeros (a value)."""
        name = self._new_name("scorer")
        self._make_room()
        with self._bench.lock:
            if start is None:
                self._adapters.add_fresh(name, self.spec.lora, seed)
            else:
                self._adapters.add_from(name, start)
            if not self._adapters.has_head(name):
                self._adapters.add_head(name, seed if head == "drawn" else None)
        return Scorer(self._bench, name, self.origin, self.fingerprint, trains=True)

    def release(self, role: Trainee | Scorer | LocalModel) -> None:
        """Forget a role's adapters; what it did not save is gone, and who still uses it is told so."""
        with self._bench.lock:
            for name in self._names(role):
                self._adapters.remove(name)
                self._bench.replicas.forget(name)
                self._bench.steps.forget(name)
                self._bench.kept.forget(name)

    def _names(self, role: Trainee | Scorer | LocalModel) -> list[str]:
        if isinstance(role, Trainee):
            return [name for name in (role.policy, role.reference) if name is not None]
        if isinstance(role, Scorer):
            return [role.adapter]
        keys = [key for key, (_, view) in self._views.items() if view is role]
        return [self._views.pop(key)[0] for key in keys]

    @property
    def origin(self) -> Origin:
        """What adapters say of their base: what somebody else can find, or the bare name of what lies in a folder."""
        return Origin(self.spec.base if self._found.revision else self._found.name, self._found.revision)

    @property
    def base_folder(self) -> Path:
        return self._found.folder

    @property
    def chat(self) -> ChatFormat:
        """How conversations become tokens."""
        return self._loaded.chat

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a reply."""
        return self._loaded.stop_ids

    def _make_room(self) -> None:
        """Training needs the memory of what only made generation faster."""
        with self._bench.lock:
            self._bench.kept.clear()
            self._bench.replicas.clear()
            self._bench.steps.clear()

    def _new_name(self, role: str) -> str:
        self._made += 1
        return f"{role}-{self._made}"

    def _facts(self) -> dict[str, object]:
        """What another run must share for its numbers to be the same to the last bit."""
        packages = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors")
        return {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
            "device": self.device,
            "device_name": torch.cuda.get_device_name(self.network.device)
            if self.device != "cpu"
            else platform.machine(),
            "dtype": str(self.network.dtype).removeprefix("torch."),
            "quantization": self.spec.quantization,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "c_compiler": compiler() is not None,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "dense_copy": self._loaded.dense_bytes > 0,
            "decoding": "step loop" if self.network.decodes else "transformers' generate",
            **({"steps": "recorded"} if self._bench.steps.on else {}),
            "base": self._found.name,
            "base_revision": self._found.revision,
            "base_fingerprint": self.fingerprint,
            **self._loaded.chat.facts,
        }


def adapter_digest(folder: Path) -> str:
    """A digest of an adapter's weights and shape, whatever it says about where its base lies."""
    plain = read_config(folder)
    shape = {k: v for k, v in plain.items() if k not in ("base_model_name_or_path", "revision", "inference_mode")}
    return digest([sha256_of(folder / WEIGHTS), shape])


def _require(folder: Path, *, head: bool) -> None:
    """Refuse a folder that plays another part: one with a head does not speak, one without does not score."""
    if scores(read_config(folder)) and not head:
        raise InputError(str(folder), "is a scorer, which gives no answers", None, "give an adapter of an sft or dpo")
    if head and not scores(read_config(folder)):
        raise InputError(str(folder), "has no scalar head, so it gives no scores", None, "give a trained reward model")


def _be_deterministic(device: str) -> None:
    """Ask for deterministic kernels. On a GPU a kernel without one warns instead of failing, and the facts say so."""
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(mode=True, warn_only=device != "cpu")
