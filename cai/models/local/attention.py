"""Attention for decoding: each row's keys and values lie in a slot of its own, those of a common prefix once for all.

Shapes: B rows, S new positions of each, H query heads, G key heads, R = H/G, D head width, P shared positions,
W columns of the slots, C columns read.

transformers hands a registered attention function the new queries, keys and values of a layer. Everything from earlier
passes is held here, so no cache class is involved and nothing is copied from row to row: scores against the shared
prefix are one matrix product for all rows, and one softmax runs over both parts. Which rows run is `decode`'s business.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME = "cai_slots"
MAX_SCORES = 1 << 22
"""Most scores against a shared prefix held at once; more rows are taken in turns."""
GROWTH = 64
"""Slots grow by whole numbers of this many columns."""

_FUSED: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
"""What `scaled_dot_product_attention` runs on a CPU; by its own name it also tells the logarithm of the scores' sum."""

Layers = list[torch.Tensor]
"""Keys and values of consecutive positions, (2, G, n, D) for each layer."""


class Slots:
    """Rows of cached keys and values, each beginning at column 0; the first `len(lengths)` slots are in use."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.lengths: list[int] = []
        self.moved = 0
        """How often what is held has moved to other memory."""
        self._layers: list[torch.Tensor] = []  # (2, rows, G, W, D)
        self._columns = 0

    @property
    def columns(self) -> int:
        """How many positions there is room for in each slot."""
        return self._columns

    def hold(self, columns: int, like: Sequence[torch.Tensor]) -> None:
        """All the room at once, (2, rows, G, columns, D) for each layer's `like`."""
        assert not self._layers, "slots that are in use"
        self._columns = columns
        self._layers = [each.new_zeros(2, self.rows, each.shape[2], columns, each.shape[4]) for each in like]

    def reserve(self, columns: int) -> None:
        """Room for this many positions in each slot."""
        if columns <= self._columns:
            return
        self._columns = -(-columns // GROWTH) * GROWTH
        self.moved += 1
        for number, held in enumerate(self._layers):
            kept, rows, heads, old, width = held.shape
            grown = held.new_zeros(kept, rows, heads, self._columns, width)
            grown[:, : len(self.lengths), :, :old] = held[:, : len(self.lengths)]
            self._layers[number] = grown

    def write(self, layer: int, new_2BGSD: torch.Tensor, first: int, columns_BS: torch.Tensor | int) -> None:
        """New positions of the slots from `first` on; equal columns for all rows are given as the first of them."""
        if layer == len(self._layers):
            _, _, heads, _, width = new_2BGSD.shape
            self._layers.append(new_2BGSD.new_zeros(2, self.rows, heads, self._columns, width))
        rows = new_2BGSD.shape[1]
        part = self._layers[layer][:, first : first + rows]
        if isinstance(columns_BS, int):
            part[:, :, :, columns_BS : columns_BS + new_2BGSD.shape[3]] = new_2BGSD
        else:
            rows_B1 = torch.arange(rows, device=new_2BGSD.device)[:, None]
            part.permute(1, 3, 0, 2, 4)[rows_B1, columns_BS] = new_2BGSD.permute(1, 3, 0, 2, 4)

    def read(self, layer: int, first: int, rows: int, columns: int) -> torch.Tensor:
        """A view (2, rows, G, columns, D)."""
        return self._layers[layer][:, first : first + rows, :, :columns]

    def put(self, slot: int, states: Layers) -> None:
        """Begin a slot with these positions."""
        for number, part_2GnD in enumerate(states):
            self.write(number, part_2GnD[:, None], slot, 0)

    def take(self, slot: int, count: int) -> Layers:
        """A copy of a slot's first positions."""
        return [held[:, slot, :, :count].clone() for held in self._layers]

    def repeat(self, slot: int) -> None:
        """Take one more slot, which holds what this one holds."""
        self.lengths.append(self.lengths[slot])
        self._copy(slot, len(self.lengths) - 1)

    def drop(self, slot: int) -> None:
        """Free a slot by moving the last one into its place."""
        last = len(self.lengths) - 1
        if slot != last:
            self.lengths[slot] = self.lengths[last]
            self._copy(last, slot)
        self.lengths.pop()

    def _copy(self, source: int, target: int) -> None:
        count = self.lengths[target]
        for held in self._layers:
            held[:, target, :, :count] = held[:, source, :, :count]


@dataclass(slots=True)
class Pass:
    """What the new positions of one forward pass may look at.

    Positions are counted from the end of the shared prefix. Without slots the new positions see each other alone; with
    them, the slots' columns from 0 on, where a row's column is its position.
    """

    attention: ClassVar[str] = NAME
    positions_BS: torch.Tensor
    shared: Layers | None = None
    slots: Slots | None = None
    first: int = 0
    columns: int = 0
    """How many columns are read."""
    start: torch.Tensor | int = 0
    """Where new positions are written: `write`'s columns."""
    fresh: bool = False
    """The slots hold nothing of these rows yet, so there is nothing to read back."""
    related_BSS: torch.Tensor | None = None
    """Which of the new positions belong together, where several branches of a text lie in one row."""
    asked_BA: torch.Tensor | None = None
    """With `related_BSS`: the columns whose output is asked for. The last layer may leave the others out."""
    made: list[torch.Tensor] | None = None
    """Filled with each layer's new keys and values (2, B, G, S, D) where a list is given."""
    _masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)
    _shared_masks: dict[int, torch.Tensor | None] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """The new positions see each other alone, so a column sees itself and what lies before it."""
        return self.slots is None or self.fresh

    def causal(self, window: int | None) -> bool:
        """Each column sees all that lie before it."""
        return self.alone and self.related_BSS is None and window is None

    def known(self, layer: int, new_2BGSD: torch.Tensor) -> torch.Tensor:
        """Write the new keys and values, and give all of the rows' own ones, (2, B, G, C, D)."""
        if self.made is not None:
            self.made.append(new_2BGSD)
        if self.slots is None:
            return new_2BGSD
        self.slots.write(layer, new_2BGSD, self.first, self.start)
        return new_2BGSD if self.fresh else self.slots.read(layer, self.first, new_2BGSD.shape[1], self.columns)

    def mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
        """What is added to the scores of the rows' own positions, (B, 1, S, C); nothing where all is seen."""
        if window not in self._masks:
            self._masks[window] = _added(self._seen(window), like)
        return self._masks[window]

    def shared_mask(self, window: int | None, length: int, like: torch.Tensor) -> torch.Tensor | None:
        """The same for the shared positions, which only a sliding window hides, (B, 1, S, P)."""
        if window is None:
            return None
        if window not in self._shared_masks:
            ago_BSP = self.positions_BS[:, :, None] + length - torch.arange(length, device=self.positions_BS.device)
            self._shared_masks[window] = _added(ago_BSP < window, like)
        return self._shared_masks[window]

    def _seen(self, window: int | None) -> torch.Tensor:
        at_BS1 = self.positions_BS[:, :, None]
        if self.alone:
            keys_B1C = self.positions_BS[:, None, :]
        else:
            keys_B1C = torch.arange(self.columns, device=at_BS1.device)[None, None]
        seen_BSC = keys_B1C <= at_BS1
        if window is not None:
            seen_BSC = seen_BSC & (keys_B1C > at_BS1 - window)
        return seen_BSC if self.related_BSS is None else seen_BSC & self.related_BSS


def _added(seen: torch.Tensor, like: torch.Tensor) -> torch.Tensor | None:
    if bool(seen.all()):
        return None
    added = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
    return added.masked_fill_(~seen, -torch.inf)[:, None]


def attend(
    module: Any,
    query_BHSD: torch.Tensor,
    key_BGSD: torch.Tensor,
    value_BGSD: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001 - a placeholder: the pass knows what is seen
    scaling: float | None = None,
    **also: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls for each layer; `cai_pass` comes through the model's keywords."""
    run: Pass = also["cai_pass"]
    layer: int = module.layer_idx
    window, softcap = also.get("sliding_window"), also.get("softcap")
    scale = query_BHSD.shape[-1] ** -0.5 if scaling is None else scaling
    own_2BGCD = run.known(layer, torch.stack((key_BGSD, value_BGSD)))
    shared_2GPD = None if run.shared is None else run.shared[layer]
    shared_mask = None if shared_2GPD is None else run.shared_mask(window, shared_2GPD.shape[2], query_BHSD)
    if _FUSED is not None and query_BHSD.device.type == "cpu" and softcap is None and shared_mask is None:
        mask = None if run.causal(window) else run.mask(window, query_BHSD)
        if run.asked_BA is not None and mask is not None and layer == module.config.num_hidden_layers - 1:
            out_BHSD = _at_asked(run.asked_BA, query_BHSD, own_2BGCD, mask, shared_2GPD, scale)
        else:
            out_BHSD = _fused(query_BHSD, own_2BGCD, mask, shared_2GPD, causal=run.alone, scale=scale)
        return out_BHSD.transpose(1, 2), None
    grouped = own_2BGCD.shape[2] != query_BHSD.shape[1]
    causal = run.causal(window) and shared_2GPD is None and softcap is None
    mask = None if causal else run.mask(window, query_BHSD)
    if shared_2GPD is None and softcap is None and not (grouped and mask is not None and query_BHSD.shape[2] == 1):
        if grouped and mask is not None:
            # No fused kernel of a GPU takes both a mask and fewer heads of keys, and all others hold the scores.
            own_2BGCD = own_2BGCD.repeat_interleave(query_BHSD.shape[1] // own_2BGCD.shape[2], dim=2)
        out_BHSD = functional.scaled_dot_product_attention(
            query_BHSD,
            own_2BGCD[0],
            own_2BGCD[1],
            attn_mask=mask,
            is_causal=causal,
            scale=scale,
            enable_gqa=grouped and mask is None,
        )
        return out_BHSD.transpose(1, 2), None
    rows, heads, new, _ = query_BHSD.shape
    width = own_2BGCD.shape[3] + (0 if shared_2GPD is None else shared_2GPD.shape[2])
    turn = max(1, MAX_SCORES // (heads * new * width))
    parts = [
        in_two_parts(
            query_BHSD[i : i + turn] * scale,
            (own_2BGCD[:, i : i + turn], _of_rows(mask, i, turn)),
            (shared_2GPD, _of_rows(shared_mask, i, turn)),
            softcap,
        )
        for i in range(0, rows, turn)
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(1, 2), None


def _at_asked(
    asked_BA: torch.Tensor,
    query_BHSD: torch.Tensor,
    own_2BGCD: torch.Tensor,
    mask: torch.Tensor,
    shared_2GPD: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """Attention of some columns' queries; the others' output, which nobody reads, is zero."""
    _, heads, _, width = query_BHSD.shape
    columns_B1A1 = asked_BA[:, None, :, None]
    index_BHAD = columns_B1A1.expand(-1, heads, -1, width)
    mask_B1AC = mask.gather(2, columns_B1A1.expand(-1, -1, -1, mask.shape[3]))
    query_BHAD = query_BHSD.gather(2, index_BHAD)
    out_BHAD = _fused(query_BHAD, own_2BGCD, mask_B1AC, shared_2GPD, causal=False, scale=scale)
    return torch.zeros_like(query_BHSD).scatter_(2, index_BHAD, out_BHAD)


def _fused(
    query_BHSD: torch.Tensor,
    own_2BGCD: torch.Tensor,
    mask: torch.Tensor | None,
    shared_2GPD: torch.Tensor | None,
    *,
    causal: bool,
    scale: float,
) -> torch.Tensor:
    """Attention by a kernel that holds no scores. Where a query sees no later column, what lies behind it is not even
    computed."""
    share = query_BHSD.shape[1] // own_2BGCD.shape[2]
    keys_BHCD, values_BHCD = own_2BGCD if share == 1 else own_2BGCD.repeat_interleave(share, dim=2)
    out_BHSD, own_BHS = _FUSED(query_BHSD, keys_BHCD, values_BHCD, is_causal=causal, attn_mask=mask, scale=scale)
    if shared_2GPD is None:
        return out_BHSD  # type: ignore[no-any-return]
    return _with_shared(out_BHSD, own_BHS, query_BHSD, shared_2GPD, scale)


def _with_shared(
    own_BHSD: torch.Tensor, own_BHS: torch.Tensor, query_BHSD: torch.Tensor, shared_2GPD: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention to the shared positions mixed in, by the logarithms of both parts' summed scores. Rows see the shared
    part alike, so all queries are taken as one row's."""
    rows, heads, new, width = query_BHSD.shape
    groups = shared_2GPD.shape[1]
    query_GND = query_BHSD.reshape(rows, groups, -1, width).transpose(0, 1).reshape(1, groups, -1, width)
    shared_GND, shared_GN = _FUSED(query_GND, *shared_2GPD[:, None], scale=scale)
    shared_BHSD = shared_GND[0].reshape(groups, rows, -1, width).transpose(0, 1).reshape(rows, heads, new, width)
    shared_BHS = shared_GN[0].reshape(groups, rows, -1).transpose(0, 1).reshape(rows, heads, new)
    share_BHS1 = torch.sigmoid(own_BHS - shared_BHS)[..., None].to(query_BHSD.dtype)
    return torch.lerp(shared_BHSD, own_BHSD, share_BHS1)


def _of_rows(mask: torch.Tensor | None, first: int, count: int) -> torch.Tensor | None:
    """Some rows' part of a mask, which may be one for all rows."""
    return mask if mask is None or mask.shape[0] == 1 else mask[first : first + count]


def in_two_parts(
    query_BHSD: torch.Tensor,
    own: tuple[torch.Tensor, torch.Tensor | None],
    shared: tuple[torch.Tensor | None, torch.Tensor | None],
    softcap: float | None,
) -> torch.Tensor:
    """One softmax, in fp32 at least, over the shared positions and the rows' own; shared ones are copied for no row."""
    own_2BGCD, own_mask = own
    shared_2GPD, shared_mask = shared
    rows, heads, new, width = query_BHSD.shape
    groups = own_2BGCD.shape[2]
    per = heads // groups * new
    query_BGTD = query_BHSD.reshape(rows, groups, per, width)
    scores_BHSC = _exact(query_BGTD @ own_2BGCD[0].transpose(-1, -2)).view(rows, heads, new, -1)
    scores_BHSC = _bounded(scores_BHSC, softcap, own_mask)
    top_BHS1 = scores_BHSC.amax(dim=-1, keepdim=True)
    if shared_2GPD is None:
        weights_BHSC = scores_BHSC.sub_(top_BHS1).exp_()
        out_BGTD = weights_BHSC.view(rows, groups, per, -1).to(query_BHSD.dtype) @ own_2BGCD[1]
        total = weights_BHSC.sum(dim=-1, keepdim=True)
        return out_BGTD.view(rows, heads, new, width) / total.to(query_BHSD.dtype)
    query_GND = query_BGTD.transpose(0, 1).reshape(groups, rows * per, width)
    shared_GNP = _exact(query_GND @ shared_2GPD[0].transpose(-1, -2))
    shared_BHSP = shared_GNP.view(groups, rows, per, -1).transpose(0, 1).view(rows, groups, heads // groups, new, -1)
    mask = None if shared_mask is None else shared_mask[:, :, None]
    shared_BHSP = _bounded(shared_BHSP, softcap, mask)
    shared_top = shared_BHSP.amax(dim=-1).reshape(rows, heads, new, 1)
    top_BHS1 = torch.maximum(top_BHS1, shared_top)
    weights_BHSC = scores_BHSC.sub_(top_BHS1).exp_()
    shared_BHSP.sub_(top_BHS1.view(rows, groups, heads // groups, new, 1)).exp_()
    total = weights_BHSC.sum(dim=-1, keepdim=True) + shared_BHSP.sum(dim=-1).reshape(rows, heads, new, 1)
    # Everything above changed `shared_GNP` in place, through views of it.
    dtype = query_BHSD.dtype
    shared_out = (shared_GNP.to(dtype) @ shared_2GPD[1]).view(groups, rows, per, width).transpose(0, 1)
    out_BGTD = weights_BHSC.view(rows, groups, per, -1).to(dtype) @ own_2BGCD[1] + shared_out
    return out_BGTD.reshape(rows, heads, new, width) / total.to(dtype)


def _exact(scores: torch.Tensor) -> torch.Tensor:
    return scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores


def _bounded(scores: torch.Tensor, softcap: float | None, mask: torch.Tensor | None) -> torch.Tensor:
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    return scores if mask is None else scores.add_(mask)


def layers_of(made: Sequence[torch.Tensor], row: int, count: int) -> Layers:
    """One row's states from what a pass made."""
    return [new_2BGSD[:, row, :, :count].clone() for new_2BGSD in made]


def _no_mask(*_: object, **__: object) -> None:
    return None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
