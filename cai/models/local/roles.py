"""The roles that adapters play: a trainable policy and its frozen reference on one base model.

The reference costs no second model: it is the base with the adapter off, or, when training goes on from an adapter, a
frozen copy of that adapter. Reward and value roles are `scorer`'s, what is done with the numbers `cai.train`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from cai.models.local.logprobs import TokenLogps, TokenRow, completion_logps
from cai.models.local.lora import Origin
from cai.models.local.upstream import layers_computed_again
from cai.models.local.view import Bench, LocalModel
from cai.records import digest


class Trainee:
    """A trainable adapter on the workbench's base, and the frozen one it is compared with."""

    def __init__(
        self, bench: Bench, names: tuple[str, str | None], origin: Origin, base_name: str, base_fingerprint: str
    ) -> None:
        self._bench = bench
        self._network = bench.loaded.network
        self._adapters = bench.adapters
        self.policy, self.reference = names
        self._origin = origin
        self._base_name = base_name
        self._base_fingerprint = base_fingerprint
        for parameter in self.parameters().values():
            parameter.requires_grad_(True)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The LoRA weights and nothing else, sorted by name."""
        return self._adapters.parameters(self.policy)

    def policy_logps(
        self,
        rows: Sequence[TokenRow],
        dropout_seed: int | None = None,
        *,
        temperature: float = 1.0,
        checkpointing: bool = False,
    ) -> TokenLogps:
        """With gradients. Dropout is off, unless fine-tuning gives the seed to draw it from; logits are divided by the
        temperature. With `checkpointing` the backward pass computes each layer again instead of having kept it."""
        again = layers_computed_again(self._network.model, lambda: self._speaking(dropout=dropout_seed is not None))
        with (
            self._bench.lock,
            self._adapters.training(self.policy, dropout_seed),
            again if checkpointing else nullcontext(),
        ):
            lanes = dropout_seed is None and not checkpointing
            return completion_logps(self._network, rows, temperature, lanes=lanes)

    @contextmanager
    def _speaking(self, *, dropout: bool) -> Iterator[None]:
        """The policy's adapter is on; what is dropped is drawn by whoever computes a layer again."""
        packing = self._network.packing() if self._network.packs else nullcontext()
        with self._bench.lock, self._adapters.speaking(self.policy, dropout=dropout), packing:
            yield

    def reference_logps(self, rows: Sequence[TokenRow], *, temperature: float = 1.0) -> TokenLogps:
        """Without gradients, on the same kernel path as the policy."""
        with self._bench.lock, torch.no_grad(), self._adapters.active(self.reference):
            return completion_logps(self._network, rows, temperature, lanes=True)

    def view(self) -> LocalModel:
        """The policy as it is when asked, to probe between steps."""
        return LocalModel(self._bench, f"{self._base_name}+training", self.policy, self._fingerprint, frozen=False)

    @contextmanager
    def resting(self) -> Iterator[LocalModel]:
        """The policy while nobody trains it: a view that generates faster, with a dense copy where there is room for
        one. What it remembered, and the room it took, is given back at the end."""
        try:
            yield LocalModel(self._bench, f"{self._base_name}+training", self.policy, self._fingerprint)
        finally:
            with self._bench.lock:
                self._bench.replicas.forget(self.policy)
                self._bench.kept.forget(self.policy)
                self._bench.steps.clear()

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the weights on the CPU, for a checkpoint."""
        return self._adapters.state(self.policy)

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go back to a `state`; `ValueError` names the first tensor that does not fit."""
        self._adapters.load(self.policy, tensors)

    def save(self, folder: Path) -> None:
        """A plain PEFT folder that transformers and peft load without this project."""
        self._adapters.write(self.policy, folder, self._origin)

    def _fingerprint(self) -> str:
        return digest([self._base_fingerprint, self._adapters.fingerprint(self.policy)])
