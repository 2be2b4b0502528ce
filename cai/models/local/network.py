"""The typed face of a transformers causal language model: hidden states, head, caches. What transformers leaves
untyped stays in here and in `upstream`.

Shapes: B rows, S positions of a forward pass, K positions in the cache, D hidden width, N scored positions,
V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from cai.errors import InputError

SUPPORTED_LAYERS = frozenset({"full_attention", "sliding_attention"})


class Network:
    """One resident causal language model, always in eval mode; adapters are switched outside."""

    def __init__(self, model: PreTrainedModel, place: str) -> None:
        self.model = model
        self._decoder: Any = model.base_model
        self._head: Any = model.get_output_embeddings()
        config: Any = model.config
        self.vocab_size: int = config.vocab_size
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        # Cohere multiplies its logits, Granite divides them.
        self.scale: float = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        layer_types = set(getattr(config, "layer_types", None) or ())
        self.all_layers_full = layer_types <= {"full_attention"} and getattr(config, "sliding_window", None) is None
        self._check(place, layer_types)

    @property
    def device(self) -> torch.device:
        return self._head.weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        return self._head.weight.dtype  # type: ignore[no-any-return]

    def hidden(
        self,
        ids_BS: torch.Tensor,
        mask: torch.Tensor | None = None,
        positions_BS: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> torch.Tensor:
        """The last hidden states (B, S, D). `mask` is (B, K) over cache and input together, or (B, 1, S, K)."""
        output = self._decoder(
            input_ids=ids_BS,
            attention_mask=mask,
            position_ids=positions_BS,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """The final logits (N, V) in fp32, scaled and capped as the model's own forward does it."""
        logits_NV = self._head(hidden_ND)
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = torch.tanh(logits_NV / self.softcap) * self.softcap
        return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()  # type: ignore[no-any-return]

    def target_logps(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        return -functional.cross_entropy(self.logits(hidden_ND), targets_N, reduction="none")

    def new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.config)

    def tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    def _check(self, place: str, layer_types: set[str]) -> None:
        """Refuse an architecture whose logits this path would get wrong, instead of guessing."""
        if self._head is None or not layer_types <= SUPPORTED_LAYERS:
            kind = type(self.model).__name__
            raise InputError(
                place, "this architecture is not supported", kind, "use a model with dense or sliding-window attention"
            )
        ids_BS = torch.arange(1, 6, device=self.device)[None] % self.vocab_size
        with torch.no_grad():
            own = self.model(input_ids=ids_BS, use_cache=False).logits[0].float()
            ours = self.logits(self.hidden(ids_BS)[0]).float()
        error = (own - ours).abs().max().item()
        if not error <= 1e-3 * max(1.0, own.abs().max().item()):
            raise InputError(
                place,
                "the model's own logits differ from head(hidden states), so its log-probabilities would be wrong",
                f"difference {error:.3g} in {type(self.model).__name__}",
                "use another architecture",
            )
