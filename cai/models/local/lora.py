"""The typed adapter around PEFT: several LoRA adapters by name on one base model, switched without touching gradients.

An adapter may have a scalar head. Adapters are injected into the base, never merged into it. Folders read and written
here are plain PEFT folders; with a head, sequence-classification ones. What a head computes is `scoring`'s.
"""

import dataclasses
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import PreTrainedModel

from cai.errors import InputError
from cai.files import write_atomic
from cai.models.local.beside import compute_beside
from cai.models.local.spec import LoraSpec
from cai.records import digest
from cai.seeds import derive

# isort: split
# After `upstream`: peft imports bitsandbytes, which must not ask the hub for kernels.
from peft import LoraConfig
from peft.functional import inject_adapter_in_model
from peft.tuners.lora import LoraLayer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HEAD = "score.weight"
"""The scalar head among an adapter's weights: the name that transformers gives it, and that is never quantised."""
_PREFIX = "base_model.model."
"""What PEFT puts before every name in its files."""
_PLAIN: Mapping[str, object] = {"use_dora": False, "bias": "none", "modules_to_save": None, "peft_type": "LORA"}
_HEAD_MODULES = frozenset({"score", "classifier"})
"""What PEFT itself lists as saved whole in a sequence-classification folder; only the first is ever there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """The base that an adapter belongs to, as written into its folder."""

    base: str
    """A hub id, or the name of a model that lies in a folder: never a path, which would mean nothing elsewhere."""
    revision: str | None


class Adapters:
    """The LoRA adapters on one base model. At most one is active; with none active the model is the base."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._active: str | None = None
        self._configs: dict[str, LoraConfig] = {}
        self._layers: dict[str, Any] = {}
        self._heads: dict[str, torch.nn.Parameter] = {}

    def add_fresh(self, name: str, shape: LoraSpec, seed: int) -> None:
        """A new adapter that changes nothing yet: A uniform as Kaiming has it, B zero; the same for the same seed."""
        targets = sorted(shape.targets or linear_names(self._model))
        unknown = [target for target in targets if target not in linear_names(self._model)]
        if unknown:
            have = ", ".join(sorted(linear_names(self._model)))
            raise InputError("lora.targets", "no linear layer has this name", unknown[0], f"choose among {have}")
        config: Any = LoraConfig(
            r=shape.rank,
            lora_alpha=shape.alpha,
            lora_dropout=shape.dropout,
            target_modules=targets,
            bias="none",
            task_type="CAUSAL_LM",
        )
        self._inject(name, config)
        with torch.no_grad():
            for key, parameter in self.parameters(name).items():
                if ".lora_A." in key:
                    bound = 1 / math.sqrt(parameter.shape[1])
                    generator = torch.Generator().manual_seed(derive("lora", seed, key))
                    values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                    parameter.copy_(values)
                else:
                    parameter.zero_()

    def add_from(self, name: str, folder: Path) -> None:
        """An adapter read from a PEFT folder, with its head where it has one."""
        config, tensors = read_adapter(folder)
        self._inject(name, config)
        if HEAD in tensors:
            self._heads[name] = self._frozen(torch.zeros(1, self._width))
        try:
            self.load(name, tensors)
        except ValueError as error:
            self.remove(name)
            raise InputError(
                str(folder / WEIGHTS), f"does not fit this base model: {error}", None, "use the base it was trained on"
            ) from error

    def add_head(self, name: str, seed: int | None) -> None:
        """Give an adapter a scalar head: normal with deviation 1/√(D + 1), as Stiennon et al. 2020 start a reward
        model; zero where no seed is given, so that a value function starts by expecting nothing."""
        head_1D = torch.zeros(1, self._width)
        if seed is not None:
            generator = torch.Generator().manual_seed(derive("head", seed))
            head_1D.normal_(0, 1 / math.sqrt(self._width + 1), generator=generator)
        self._heads[name] = self._frozen(head_1D)

    def head(self, name: str) -> torch.nn.Parameter:
        return self._heads[name]

    def has_head(self, name: str) -> bool:
        return name in self._heads

    def remove(self, name: str) -> None:
        if self._active == name:
            self._switch(None)
        for layer in self._layers.values():
            layer.delete_adapter(name)
        self._heads.pop(name, None)
        del self._configs[name]
        del self._model.peft_config[name]

    @contextmanager
    def active(self, name: str | None) -> Iterator[None]:
        """Run with this adapter, or with none. Which parameters want gradients never changes here: PEFT's own switch
        would freeze the adapter that a pending backward pass belongs to, and its gradients would vanish silently."""
        before = self._active
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    @contextmanager
    def training(self, name: str, dropout_seed: int | None) -> Iterator[None]:
        """Run with this adapter, its dropout drawn from the seed; without a seed there is no dropout."""
        if dropout_seed is None:
            with self.speaking(name, dropout=False):
                yield
            return
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with self.speaking(name, dropout=True), torch.random.fork_rng(devices):
            torch.manual_seed(dropout_seed)
            yield

    @contextmanager
    def speaking(self, name: str, *, dropout: bool) -> Iterator[None]:
        """Run with this adapter, with its dropout, drawn from where the generator stands, or without."""
        with self.active(name):
            self._set_dropout(name, dropout)
            try:
                yield
            finally:
                self._set_dropout(name, False)

    def parameters(self, name: str) -> dict[str, torch.nn.Parameter]:
        """Every weight of one adapter, its head included, sorted by a name that does not contain the adapter's."""
        found: dict[str, torch.nn.Parameter] = {HEAD: self._heads[name]} if name in self._heads else {}
        for path, layer in self._layers.items():
            if name in layer.lora_A:
                found[f"{path}.lora_A.weight"] = layer.lora_A[name].weight
                found[f"{path}.lora_B.weight"] = layer.lora_B[name].weight
        return dict(sorted(found.items()))

    def load(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy values in; `ValueError` names the first tensor that is missing, unknown or of another shape."""
        parameters = self.parameters(name)
        for key in sorted(parameters.keys() ^ tensors.keys()):
            raise ValueError(f"{key} is {'missing' if key in parameters else 'unknown'}")
        for key, parameter in parameters.items():
            if parameter.shape != tensors[key].shape:
                raise ValueError(f"{key} has shape {list(tensors[key].shape)}, expected {list(parameter.shape)}")
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[key])

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """A copy of one adapter's weights on the CPU."""
        return {key: p.detach().cpu().clone() for key, p in self.parameters(name).items()}

    def fingerprint(self, name: str) -> str:
        """A digest of one adapter's weights as they are now."""
        return digest({k: hashlib.sha256(p.numpy().tobytes()).hexdigest() for k, p in self.state(name).items()})

    def write(self, name: str, folder: Path, origin: Origin) -> None:
        """A plain PEFT folder: safetensors and one JSON file, the same bytes for the same values."""
        config: Any = self._configs[name]
        plain = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
        plain |= {"base_model_name_or_path": origin.base, "revision": origin.revision, "inference_mode": True}
        if name in self._heads:
            plain |= {"task_type": "SEQ_CLS", "modules_to_save": [HEAD.partition(".")[0]]}
        tensors = {_PREFIX + key: p.detach().cpu().contiguous() for key, p in self.parameters(name).items()}
        write_atomic(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
        write_atomic(folder / CONFIG, json.dumps(plain, indent=2, sort_keys=True) + "\n")

    def _inject(self, name: str, config: LoraConfig) -> None:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Several adapters on one model are the point here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(config, self._model, adapter_name=name)
        self._configs[name] = config
        self._layers = {path: m for path, m in self._model.named_modules() if isinstance(m, LoraLayer)}
        compute_beside(self._layers)
        for parameter in self.parameters(name).values():
            parameter.data = parameter.data.to(torch.float32)
            parameter.requires_grad_(False)
        self._model.eval()
        self._active = name
        self._switch(None)

    @property
    def _width(self) -> int:
        return int(self._model.config.get_text_config().hidden_size)

    def _frozen(self, values: torch.Tensor) -> torch.nn.Parameter:
        return torch.nn.Parameter(values.to(self._model.device, torch.float32), requires_grad=False)

    def _set_dropout(self, name: str, on: bool) -> None:
        """One adapter's dropout; everything else stays in eval mode."""
        for layer in self._layers.values():
            if name in layer.lora_dropout:
                layer.lora_dropout[name].train(on)

    def _switch(self, name: str | None) -> None:
        # PEFT's layers pass over a name that they do not know, and the base would answer in its place.
        assert name is None or name in self._configs, f"{name} was released"
        if name == self._active:
            return
        for layer in self._layers.values():
            layer._active_adapter = [] if name is None else [name]  # noqa: SLF001 (PEFT's own switch flips requires_grad)
            layer._disable_adapters = name is None  # noqa: SLF001
        self._active = name


def linear_names(model: PreTrainedModel) -> set[str]:
    """The last names of the decoder's linear layers, such as `q_proj`; the head is none of them."""
    decoder: Any = model.base_model
    found = set()
    for path, module in decoder.named_modules():
        base = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(base, torch.nn.Linear) and ".lora_" not in path and not path.endswith("base_layer"):
            found.add(path.rpartition(".")[2])
    return found


def read_adapter(folder: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """What a PEFT folder holds, names without PEFT's prefix. Anything but plain LoRA in safetensors is refused."""
    plain = read_config(folder)
    known = {f.name for f in dataclasses.fields(LoraConfig)}
    # The head is a weight like the others here, not a module for PEFT to wrap.
    apart = ("peft_type", "auto_mapping", "task_type", "modules_to_save")
    fields = {key: value for key, value in plain.items() if key in known and key not in apart}
    try:
        config = LoraConfig(**fields)
        tensors = load_file(folder / WEIGHTS)
    except (TypeError, ValueError) as error:
        raise InputError(str(folder / CONFIG), f"cannot be read as a LoRA adapter: {error}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(str(folder / WEIGHTS), f"cannot be read: {error}", None, "restore or retrain it") from error
    named = {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}
    if (HEAD in named) != scores(plain):
        problem = f"has {'a' if HEAD in named else 'no'} {HEAD}, and {CONFIG} says task_type {plain.get('task_type')}"
        raise InputError(str(folder / WEIGHTS), problem, None, "restore or retrain it")
    return config, named


def scores(plain: Mapping[str, object]) -> bool:
    """Whether an adapter's configuration is one with a head."""
    return plain.get("task_type") == "SEQ_CLS"


def read_config(folder: Path) -> dict[str, object]:
    """The adapter's configuration, after the folder was found to be one that can be loaded safely."""
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            str(folder), "is not an adapter folder: adapter_config.json is missing", None, "check the path"
        )
    if not (folder / WEIGHTS).is_file():
        raise InputError(
            str(folder), f"has no {WEIGHTS}; other weight files are not loaded", None, "save it as safetensors"
        )
    try:
        plain = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(str(path), f"is not JSON: {error}") from error
    if not isinstance(plain, dict):
        raise InputError(str(path), "is not a JSON object")
    modules = plain.get("modules_to_save")
    if scores(plain) and isinstance(modules, list) and _HEAD_MODULES.issuperset(modules):
        plain["modules_to_save"] = None
    for key, expected in _PLAIN.items():
        if plain.get(key, expected) != expected and plain.get(key):
            raise InputError(str(path), f"only plain LoRA is supported, and {key} is not", plain[key])
    return plain
