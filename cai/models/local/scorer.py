"""The roles that score: an adapter with a scalar head, as a reward of whole answers or as a value of every state.

Any number of them share the one base with policies, references and views. Their training is `cai.train`'s business.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from cai.models.local.logprobs import TokenRow
from cai.models.local.lora import Origin
from cai.models.local.scoring import TokenValues, completion_values, row_scores
from cai.models.local.upstream import layers_computed_again
from cai.models.local.view import Bench
from cai.records import digest


class Scorer:
    """An adapter and its fp32 head. In training its outputs carry gradients to these two and to nothing else."""

    def __init__(self, bench: Bench, adapter: str, origin: Origin, base_fingerprint: str, *, trains: bool) -> None:
        self._bench = bench
        self._network = bench.loaded.network
        self._adapters = bench.adapters
        self.adapter = adapter
        self._origin = origin
        self._base_fingerprint = base_fingerprint
        self.trains = trains
        for parameter in self.parameters().values():
            parameter.requires_grad_(trains)

    @property
    def fingerprint(self) -> str:
        """A digest of base, adapter and head as they are now."""
        return digest([self._base_fingerprint, self._adapters.fingerprint(self.adapter)])

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The LoRA weights and the head, sorted by name."""
        return self._adapters.parameters(self.adapter)

    def scores(
        self, rows: Sequence[TokenRow], dropout_seed: int | None = None, *, checkpointing: bool = False
    ) -> torch.Tensor:
        """The fp32 score (B) of each row, read at its last token."""
        with (
            self._bench.lock,
            self._gradients(),
            self._adapters.training(self.adapter, dropout_seed),
            self._again(dropout_seed) if checkpointing else nullcontext(),
        ):
            lanes = dropout_seed is None and not checkpointing
            return row_scores(self._network, self._adapters.head(self.adapter), rows, lanes=lanes)

    def values(
        self, rows: Sequence[TokenRow], dropout_seed: int | None = None, *, checkpointing: bool = False
    ) -> TokenValues:
        """A value for each completion token, at the position where its log-probability is read, and one behind."""
        with (
            self._bench.lock,
            self._gradients(),
            self._adapters.training(self.adapter, dropout_seed),
            self._again(dropout_seed) if checkpointing else nullcontext(),
        ):
            lanes = dropout_seed is None and not checkpointing
            return completion_values(self._network, self._adapters.head(self.adapter), rows, lanes=lanes)

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of adapter and head on the CPU, for a checkpoint."""
        return self._adapters.state(self.adapter)

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state`; `ValueError` names the first tensor that does not fit."""
        self._adapters.load(self.adapter, tensors)

    def save(self, folder: Path) -> None:
        """A PEFT folder that `AutoModelForSequenceClassification(num_labels=1)` and peft load without this project."""
        self._adapters.write(self.adapter, folder, self._origin)

    def _again(self, dropout_seed: int | None) -> AbstractContextManager[None]:
        """The backward pass computes each layer again instead of having kept it."""
        model = self._network.model
        return layers_computed_again(model, lambda: self._speaking(dropout=dropout_seed is not None))

    @contextmanager
    def _speaking(self, *, dropout: bool) -> Iterator[None]:
        packing = self._network.packing() if self._network.packs else nullcontext()
        with self._bench.lock, self._adapters.speaking(self.adapter, dropout=dropout), packing:
            yield

    def _gradients(self) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(self.trains and torch.is_grad_enabled())
