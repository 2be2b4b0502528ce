"""The typed face of a transformers causal language model: hidden states, head, passes over slots. What
transformers leaves untyped stays in here and in `upstream`.

Shapes: B rows, S positions of a forward pass, D hidden width, N scored positions, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cai.errors import InputError
from cai.models.local import attention, packed
from cai.models.local.attention import Pass
from cai.models.local.fixed import FixedPass
from cai.models.local.fused import fuse
from cai.models.local.head import LogitForm, token_logps
from cai.models.local.lanes import Costs
from cai.models.local.layout import Layout, TokenRow, lay_out
from cai.models.local.narrow import LastLayer, NarrowPacking
from cai.models.local.packed import KEYWORD
from cai.models.local.straight import StraightPacking
from cai.models.local.upstream import rotates_alike

MAX_TILE_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 25}
"""Logits held at once where the head is more than a frozen matrix, of which `head` decides: 32 MB in fp32 on a CPU,
which is no faster with more, 128 MB on a GPU. Above it the head runs in tiles."""
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
        self._nothing = torch.zeros(1, 1, 1, 1, device=self.device)
        """Stands where transformers expects a mask, so that it builds none."""
        if self.device.type == "cpu" and self.dtype == torch.float32:
            fuse(model)
        self.cached: list[torch.Tensor] = []
        """What a layer keeps of no position at all, (2, 0, G, 0, D) each: the form of its keys and values."""
        self._check(place)
        self.decodes = layer_types <= SUPPORTED_LAYERS and self._passes_agree()
        """Whether passes over slots give what the model itself says; if not, only `generate` can decode."""
        self.narrows = False
        """Whether the last layer of rows laid end to end is computed at the asked positions alone."""
        self.packs = layer_types <= SUPPORTED_LAYERS and self._packing_agrees()
        """Whether rows laid end to end give what each gives alone; if not, they are padded."""
        self.narrows = self.packs and self._narrowing_agrees()
        self.lanes = self.packs and self.device.type == "cpu" and rotates_alike(model)
        """Whether two passes may run at once."""
        shape: Any = config.get_text_config()
        self.costs = Costs.by_shape(self.vocab_size, shape.hidden_size, shape.num_hidden_layers)

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
    ) -> torch.Tensor:
        """The last hidden states (B, S, D). `mask` is (B, S) or (B, 1, S, S)."""
        output = self._decoder(input_ids=ids_BS, attention_mask=mask, position_ids=positions_BS, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def pass_over(self, ids_BS: torch.Tensor, positions_BS: torch.Tensor, run: Pass | FixedPass) -> torch.Tensor:
        """The last hidden states (B, S, D) of positions that see what `run` holds and says. Without gradients."""
        with self._attention(run.attention):
            output = self._decoder(
                input_ids=ids_BS,
                attention_mask=self._nothing,
                position_ids=positions_BS,
                use_cache=False,
                cai_pass=run,
            )
        return output.last_hidden_state  # type: ignore[no-any-return]

    def packed(self, layout: Layout) -> torch.Tensor:
        """The last hidden states (N, D) at the asked positions of rows laid end to end, with gradients where they are
        on."""
        narrow = self.narrows and len(layout.asked) < len(layout.ids)
        size = len(layout.ids)
        packing = NarrowPacking(layout, self.device) if narrow else StraightPacking(layout.entries, size, self.device)
        with self.packing():
            output = self._decoder(
                input_ids=self.tensor([layout.ids]),
                attention_mask=self._nothing,
                position_ids=self.tensor([layout.positions]),
                use_cache=False,
                **{KEYWORD: packing},
            )
        hidden: torch.Tensor = output.last_hidden_state[0]
        if narrow or len(layout.asked) == len(layout.ids):
            return hidden
        return hidden.index_select(0, self.tensor(layout.asked))

    def learnt(self) -> list[torch.nn.Parameter]:
        """What gradients of hidden states flow to."""
        return [each for each in self.model.parameters() if each.requires_grad]

    def packing(self) -> AbstractContextManager[None]:
        """Layers of a packed pass run within this, also where the backward pass computes them again."""
        return self._attention(packed.NAME)

    def logits(self, hidden_ND: torch.Tensor) -> torch.Tensor:
        """The final logits (N, V) in fp32, scaled and capped as the model's own forward does it."""
        logits_NV = self._head(hidden_ND)
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = torch.tanh(logits_NV / self.softcap) * self.softcap
        return logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()  # type: ignore[no-any-return]

    def target_logps(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
        """log p(target) at each hidden state, logits divided by the temperature."""
        head = self._head
        if _is_plain(head):
            return token_logps(hidden_ND, head.weight, targets_N, LogitForm(self.scale, self.softcap, temperature))
        tile = max(1, MAX_TILE_LOGITS[self.device.type] // self.vocab_size)
        if len(targets_N) <= tile:
            return self._cross_entropy(temperature, hidden_ND, targets_N)
        pieces = zip(hidden_ND.split(tile), targets_N.split(tile), strict=True)
        tiled = partial(checkpoint, self._cross_entropy, temperature, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([tiled(hidden, targets) for hidden, targets in pieces])

    def _cross_entropy(self, temperature: float, hidden_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
        return -functional.cross_entropy(self.logits(hidden_ND) / temperature, targets_N, reduction="none")

    def tensor(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

    @contextmanager
    def _attention(self, name: str) -> Iterator[None]:
        config: Any = self._decoder.config
        before = config._attn_implementation  # noqa: SLF001 (its only name)
        config._attn_implementation = name  # noqa: SLF001
        try:
            yield
        finally:
            config._attn_implementation = before  # noqa: SLF001

    def _passes_agree(self) -> bool:
        """Try a shared beginning, a prompt and one step on a few tokens against the plain forward pass."""
        ids_BS = torch.arange(1, 10, device=self.device)[None] % self.vocab_size
        made: list[torch.Tensor] = []
        parts = []
        try:
            with torch.no_grad():
                plain = self.logits(self.hidden(ids_BS)[0])
                at_1S = torch.arange(9, device=self.device)[None]
                parts.append(self.pass_over(ids_BS[:, :3], at_1S[:, :3], Pass(at_1S[:, :3], made=made)))
                self.cached = [each[:, :0, :, :0].clone() for each in made]
                shared, slots = attention.layers_of(made, 0, 3), attention.Slots(1)
                slots.reserve(6)
                for first, last in ((3, 8), (8, 9)):
                    own_1S = at_1S[:, first:last] - 3
                    run = Pass(own_1S, shared, slots, columns=last - 3, start=own_1S)
                    parts.append(self.pass_over(ids_BS[:, first:last], at_1S[:, first:last], run))
                ours = self.logits(torch.cat(parts, dim=1)[0])
        except (TypeError, KeyError, AttributeError, RuntimeError, IndexError):
            return False
        return self.error(plain, ours) <= 1.0

    def _packing_agrees(self) -> bool:
        """Try two answers to one prompt, and another text, against the plain forward pass of each."""
        ids = [k % self.vocab_size for k in range(1, 13)]
        rows = [
            TokenRow(tuple(ids[:4]), tuple(ids[4:9])),
            TokenRow(tuple(ids[:4]), tuple(ids[9:])),
            TokenRow(tuple(ids[5:7]), tuple(ids[:3])),
        ]
        layout = lay_out(rows, "states")
        errors = []
        try:
            with torch.no_grad():
                hidden_SD = self.packed(layout)
                for row, told in zip(rows, layout.told, strict=True):
                    plain = self.hidden(self.tensor([(*row.prompt_ids, *row.completion_ids)]))
                    own = self.logits(plain[0, len(row.prompt_ids) - 1 :])
                    errors.append(self.error(own, self.logits(hidden_SD[list(told)])))
        except (TypeError, KeyError, AttributeError, RuntimeError, IndexError):
            return False
        return all(error <= 1.0 for error in errors)

    def _narrowing_agrees(self) -> bool:
        """The same trial with a last layer that is computed where it is asked."""
        layers = getattr(self._decoder, "layers", None)
        if not layers:
            return False
        own = layers[-1].forward
        layers[-1].forward = LastLayer(layers[-1])
        self.narrows = True
        agrees = self._packing_agrees()
        if not agrees:
            layers[-1].forward = own
        return agrees

    def error(self, own: torch.Tensor, ours: torch.Tensor) -> float:
        """The largest difference, in units of what rounding may explain; NaN where there is one."""
        allowed = 1e-3 if self.dtype != torch.bfloat16 else 3e-2
        return (own - ours).abs().max().item() / (allowed * max(1.0, own.abs().max().item()))

    def _check(self, place: str) -> None:
        """Refuse an architecture whose logits this path would get wrong, instead of guessing."""
        if self._head is None:
            raise InputError(
                place, "this architecture has no language head", type(self.model).__name__, "use a causal model"
            )
        ids_BS = torch.arange(1, 6, device=self.device)[None] % self.vocab_size
        with torch.no_grad():
            own = self.model(input_ids=ids_BS, use_cache=False).logits[0].float()
            ours = self.logits(self.hidden(ids_BS)[0]).float()
        error = self.error(own, ours)
        if not error <= 1.0:
            raise InputError(
                place,
                "the model's own logits differ from head(hidden states), so its log-probabilities would be wrong",
                f"difference {error:.3g} in {type(self.model).__name__}",
                "use another architecture",
            )


def _is_plain(head: Any) -> bool:
    """A frozen matrix and nothing else, whose gradient with respect to its input is known in the forward pass."""
    return type(head) is torch.nn.Linear and getattr(head, "bias", None) is None and not head.weight.requires_grad
