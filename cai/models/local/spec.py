"""Which model to load and how: plain values without torch, so that a pipeline file can be read without it."""

from dataclasses import dataclass
from typing import Literal

Quantization = Literal["nf4", "int8", "none"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The shape of every adapter in a run."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    """Used in fine-tuning only; every log-probability of a preference or policy method is taken without it."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers to adapt, such as `q_proj`; empty means all of the decoder's."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    base: str
    """`tiny`, a folder, or a hub id."""
    revision: str | None = None
    """The commit of a hub model, or a branch, of which a run notes the commit; the hub moves, so one must be given."""
    quantization: Quantization = "nf4"
    lora: LoraSpec = LoraSpec()
    template: str | None = None
    """A named chat form (`chatml`, `llama-2`, `mistral`, `alpaca`) instead of the model's own template."""
    clock: str = "2026-01-01"
    """The date that a template sees when it asks for today's."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`."""
    precision: Precision = "auto"
    """What the base is computed in: `auto` is fp32 on a CPU and bf16 on a GPU that has it."""

    @property
    def own_precision(self) -> dict[str, str]:
        """What a digest says of the precision: nothing of `auto`, so that a run that does not choose is what it was
        before there was a choice."""
        return {} if self.precision == "auto" else {"precision": self.precision}
