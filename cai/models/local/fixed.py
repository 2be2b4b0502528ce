"""Attention of one new token for each row, in shapes that buckets alone decide: the same kernels on the same memory
whatever the rows hold, so that a GPU can record a step and replay it.

Shapes: B rows, H query heads, G key heads, D head width, P shared positions, W columns of the slots, C columns read.

How much of that room is filled is told by tensors on the device, never by a number that Python looks at: nothing in
here may wait for the device, and no shape may follow from data. What is read beyond a row's length weighs nothing.
Which shapes there are, and who records them, is `steps`' business.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from cai.models.local.attention import Layers, Slots, in_two_parts

NAME = "cai_fixed"


@dataclass(frozen=True, slots=True)
class Beginning:
    """What all rows begin with, in room for more: (2, G, P, D) for each layer, of which `length` positions count."""

    layers: Layers
    length: torch.Tensor  # of no dimension, on the device


@dataclass(frozen=True, slots=True)
class FixedPass:
    """One new token in each of the first slots. Rows that hold nothing have length 0 and see themselves alone."""

    attention: ClassVar[str] = NAME
    slots: Slots
    columns: int
    lengths_B: torch.Tensor
    """The columns that the new tokens take."""
    beginning: Beginning | None = None
    _masks: dict[tuple[str, int | None], torch.Tensor] = field(default_factory=dict)

    def positions(self) -> torch.Tensor:
        """Of the new tokens, (B, 1)."""
        at_B1 = self.lengths_B[:, None]
        return at_B1 if self.beginning is None else at_B1 + self.beginning.length

    def known(self, layer: int, new_2BGD: torch.Tensor) -> torch.Tensor:
        """Write the new keys and values, and give all of the rows' own ones, (2, B, G, C, D)."""
        rows = len(self.lengths_B)
        own_2BGCD = self.slots.read(layer, 0, rows, self.columns)
        rows_B = torch.arange(rows, device=self.lengths_B.device)
        own_2BGCD[:, rows_B, :, self.lengths_B] = new_2BGD.transpose(0, 1)
        return own_2BGCD

    def mask(self, window: int | None) -> torch.Tensor:
        """What is added to the scores of the rows' own columns, (B, 1, 1, C)."""
        if ("own", window) not in self._masks:
            at_B1 = self.lengths_B[:, None]
            columns_C = torch.arange(self.columns, device=at_B1.device)
            seen_BC = columns_C <= at_B1
            if window is not None:
                seen_BC = seen_BC & (columns_C > at_B1 - window)
            self._masks["own", window] = _added(seen_BC)[:, None, None]
        return self._masks["own", window]

    def shared_mask(self, window: int | None) -> torch.Tensor:
        """The same for the shared positions, (B or 1, 1, 1, P)."""
        assert self.beginning is not None, "nothing is shared"
        if ("shared", window) not in self._masks:
            length = self.beginning.length
            positions_P = torch.arange(self.beginning.layers[0].shape[2], device=length.device)
            seen_BP = (positions_P < length)[None]
            if window is not None:
                seen_BP = seen_BP & (self.lengths_B[:, None] + length - positions_P < window)
            self._masks["shared", window] = _added(seen_BP)[:, None, None]
        return self._masks["shared", window]


def attend_fixed(
    module: Any,
    query_BH1D: torch.Tensor,
    key_BG1D: torch.Tensor,
    value_BG1D: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - a placeholder: the pass knows what is seen
    scaling: float | None = None,
    **also: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls for each layer; `cai_pass` comes through the model's keywords."""
    run: FixedPass = also["cai_pass"]
    layer: int = module.layer_idx
    window, softcap = also.get("sliding_window"), also.get("softcap")
    scale = query_BH1D.shape[-1] ** -0.5 if scaling is None else scaling
    own_2BGCD = run.known(layer, torch.stack((key_BG1D[:, :, 0], value_BG1D[:, :, 0])))
    shared: tuple[torch.Tensor | None, torch.Tensor | None] = None, None
    if run.beginning is not None:
        shared = run.beginning.layers[layer], run.shared_mask(window)
    out_BH1D = in_two_parts(query_BH1D * scale, (own_2BGCD, run.mask(window)), shared, softcap)
    return out_BH1D.transpose(1, 2), None


def _added(seen: torch.Tensor) -> torch.Tensor:
    return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)


def _no_mask(*_: object, **__: object) -> None:
    return None


AttentionInterface.register(NAME, attend_fixed)
AttentionMaskInterface.register(NAME, _no_mask)
