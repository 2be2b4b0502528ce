"""Decoding and weighing for architectures that the step loop does not know: transformers' own `generate`.

Slower, and nothing is shared between rows; what a row draws follows the same rule, one uniform for each (row seed,
position). Whether a model needs this is found out when it is loaded (`network`).

Shapes: B rows, S positions so far, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from cai.models.local.decode import MAX_ROWS, Decoded, DecodeRow, Ended
from cai.models.local.logprobs import TokenRow, completion_logps
from cai.models.local.network import Network
from cai.models.local.sampling import draw
from cai.models.protocol import Finish

Ids = tuple[int, ...]


def decode_by_generate(
    network: Network, rows: Sequence[DecodeRow], ended: Ended, max_rows: int = MAX_ROWS
) -> list[Decoded]:
    """Every row's tokens, in the order given."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].prompt_ids), -rows[i].sampling.max_new_tokens, i))
    found: dict[int, Decoded] = {}
    for start in range(0, len(order), max_rows):
        group = order[start : start + max_rows]
        drawing = _Drawing([rows[i] for i in group], group, ended)
        _run(network, drawing)
        found |= dict(zip(group, drawing.results(), strict=True))
    return [found[i] for i in range(len(rows))]


def choice_logps_alone(network: Network, rows: Sequence[tuple[Ids, Sequence[Ids]]]) -> list[list[float]]:
    """log p(continuation | prompt) of each continuation, every one in a text of its own."""
    texts = [TokenRow(prompt, option) for prompt, options in rows for option in options]
    with torch.inference_mode():
        sums = iter(completion_logps(network, texts).sums().tolist())
    return [[next(sums) for _ in options] for _, options in rows]


class _Drawing:
    """Draws for `generate` as a logits processor, and tells it, as a stopping criterion, which rows are done."""

    def __init__(self, rows: Sequence[DecodeRow], numbers: Sequence[int], ended: Ended) -> None:
        self.rows = rows
        self._numbers = numbers
        self._ended = ended
        self._ids: list[list[int]] = [[] for _ in rows]
        self._logps: list[list[float]] = [[] for _ in rows]
        self._finish: list[Finish | None] = [None] * len(rows)

    def results(self) -> list[Decoded]:
        told = zip(self._ids, self._finish, self._logps, strict=True)
        return [Decoded(tuple(ids), finish or "length", tuple(logps)) for ids, finish, logps in told]

    def process(self, ids_BS: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        """Logits that leave `generate` no choice but the token drawn."""
        del ids_BS
        logits_BV = logits_BV if logits_BV.dtype == torch.float64 else logits_BV.float()
        samplings, seeds = [row.sampling for row in self.rows], [row.seed for row in self.rows]
        tokens_B = draw(logits_BV, samplings, seeds, [len(ids) for ids in self._ids])
        logps_B = logits_BV.gather(1, tokens_B[:, None])[:, 0] - logits_BV.logsumexp(dim=-1)
        for k, (token, logp) in enumerate(zip(tokens_B.tolist(), logps_B.tolist(), strict=True)):
            self._take(k, token, logp)
        return torch.full_like(logits_BV, -torch.inf).scatter(1, tokens_B[:, None], 0.0)

    def _take(self, k: int, token: int, logp: float) -> None:
        if self._finish[k] is not None:
            return
        self._ids[k].append(token)
        if self.rows[k].logps:
            self._logps[k].append(logp)
        if self._ended(self._numbers[k], self._ids[k]):
            self._finish[k] = "stop"
        elif len(self._ids[k]) >= self.rows[k].sampling.max_new_tokens:
            self._finish[k] = "length"

    def done(self, ids_BS: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        del scores
        return torch.tensor([finish is not None for finish in self._finish], device=ids_BS.device)


def _run(network: Network, drawing: _Drawing) -> None:
    rows = drawing.rows
    width = max(len(row.prompt_ids) for row in rows)
    gaps = [width - len(row.prompt_ids) for row in rows]
    ids_BS = network.tensor([[*[0] * gap, *row.prompt_ids] for gap, row in zip(gaps, rows, strict=True)])
    mask_BS = network.tensor([[*[0] * gap, *[1] * (width - gap)] for gap in gaps])
    model: Any = network.model
    with torch.inference_mode():
        model.generate(
            ids_BS,
            attention_mask=mask_BS,
            do_sample=False,
            max_new_tokens=max(row.sampling.max_new_tokens for row in rows),
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=[drawing.process],
            stopping_criteria=[drawing.done],
        )
