"""The workbench: the one resident base model of a process, and the roles it hands out as views of it.

A role is the base, or an adapter on it; nothing is merged, nothing is loaded twice. Losses and loops are `cai.train`'s.
"""

import os
import platform
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from cai.files import sha256_of
from cai.models.local.finding import Found, find_model
from cai.models.local.fitting import require_loadable
from cai.models.local.loading import load, pick_device, replica_budget
from cai.models.local.logprobs import TokenRow
from cai.models.local.lora import WEIGHTS, Adapters, Origin, read_config
from cai.models.local.prefix import Kept
from cai.models.local.replica import Replicas
from cai.models.local.roles import Trainee
from cai.models.local.spec import LoraSpec, ModelSpec
from cai.models.local.view import Bench, Limits, LocalModel
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
    """Owns the base model; hands out views and trainees."""

    def __init__(self, spec: ModelSpec, found: Found) -> None:
        self.spec = spec
        self._found = found
        self._loaded = load(spec, found)
        self.network = self._loaded.network
        self.device = str(self.network.device)
        self.dense_bytes = self._loaded.dense_bytes
        self._adapters = Adapters(self.network.model)
        self.limits = Limits()
        replicas = Replicas(self.network.model, replica_budget(self.device))
        self._bench = Bench(self._loaded, self._adapters, threading.RLock(), Kept(KEPT_BYTES), replicas, self.limits)
        self._views: dict[str, LocalModel] = {}
        self._made = 0
        self.fingerprint = digest(
            [self._loaded.weights_digest, found.revision, spec.quantization, self._loaded.chat.fingerprint]
        )
        self.facts = self._facts()

    def view(self, adapter: Path | None = None) -> LocalModel:
        """The base, or the base with an adapter folder. The same folder's content gives the same view again."""
        if adapter is None:
            return LocalModel(self._bench, self._found.name, None, lambda: self.fingerprint)
        key = adapter_digest(adapter)
        if key not in self._views:
            name = self._new_name("view")
            with self._bench.lock:
                self._adapters.add_from(name, adapter)
            fingerprint = digest([self.fingerprint, key])
            self._views[key] = LocalModel(self._bench, f"{self._found.name}+{key[:8]}", name, lambda: fingerprint)
        return self._views[key]

    def encode(self, messages: Sequence[Message], completion: str, tools: Sequence[dict[str, object]] = ()) -> TokenRow:
        """A conversation and its answer as tokens; `RowError` when they cannot be told apart."""
        return self._loaded.chat.encode(messages, completion, tools)

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[dict[str, object]] = ()) -> tuple[int, ...]:
        return self._loaded.chat.encode_prompt(messages, tools)

    def trainee(self, start: Path | None, seed: int) -> Trainee:
        """A trainable adapter: a fresh one compared with the base, or a copy of `start` compared with `start`."""
        policy, reference = self._new_name("policy"), None
        with self._bench.lock:
            if start is None:
                self._adapters.add_fresh(policy, self.spec.lora, seed)
            else:
                reference = self._new_name("reference")
                self._adapters.add_from(policy, start)
                self._adapters.add_from(reference, start)
        base = self.spec.base if self._found.revision else str(self._found.folder)
        origin = Origin(base, self._found.revision)
        return Trainee(self._bench, (policy, reference), origin, self._found.name, self.fingerprint)

    def forget(self) -> None:
        """Drop what is kept of earlier calls, so that the next ones do not depend on them to the last bit."""
        with self._bench.lock:
            self._bench.kept.clear()

    def release(self, trainee: Trainee) -> None:
        """Forget a trainee's adapters; what it did not save is gone."""
        with self._bench.lock:
            self._adapters.remove(trainee.policy)
            if trainee.reference is not None:
                self._adapters.remove(trainee.reference)

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
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "dense_copy": self._loaded.dense_bytes > 0,
            "decoding": "step loop" if self.network.decodes else "transformers' generate",
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


def _be_deterministic(device: str) -> None:
    """Ask for deterministic kernels. On a GPU a kernel without one warns instead of failing, and the facts say so."""
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(mode=True, warn_only=device != "cpu")
