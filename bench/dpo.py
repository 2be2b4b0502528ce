"""DPO: our trainer against TRL's, and against the plain loop that a careful person would write.

    .venv-peers/bin/python bench/dpo.py [--rounds 5] [--bf16] [--choose]

Batches of 8 pairs: prompts of 60 to 300 random tokens, answers of 20 to 200, every answer counted with its prompt. The
reference is the model without the adapter. TRL asks it in every step, ours once before the first, which counts. How
the sides take turns stands in `training`, what the floor is in `floor`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import training
from floor import Work, cells_of
from training import Bars, Bench, Pair
from turns import Asked, Turns

from cai.models.local.layout import TokenRow, packed_length
from cai.train.config import DpoConfig
from cai.train.preference import items_of, train_dpo
from cai.train.reference import PairRow

BETA = 0.1
AT_ONCE = 2
"""Pairs in a pass of the lean loop: where it is fastest."""


def rows_of(pairs: Sequence[Pair]) -> list[PairRow]:
    return [PairRow(p.id, TokenRow(p.prompt, p.chosen), TokenRow(p.prompt, p.rejected)) for p in pairs]


def updates(asked: Asked) -> list[list[Pair]]:
    pairs = training.pairs(asked.batches)
    return [[pairs[i] for i in batch] for batch in training.order(items_of(rows_of(pairs)), asked)]


def start(asked: Asked, _: Turns) -> None:
    """The adapter that every side begins with: ours, drawn from its seed."""
    training.opened(asked).trainee(None, training.SEED).save(asked.adapter)


def ours(asked: Asked, turns: Turns) -> None:
    turns.watch()
    trainee = training.opened(asked).trainee(None, training.SEED)
    config = DpoConfig(**training.our_config(asked), beta=BETA, labels="hard")
    with tempfile.TemporaryDirectory() as folder:
        for step in train_dpo(config, rows_of(training.pairs(asked.batches)), trainee, Path(folder), turns.between):
            turns.end(step.metrics["loss"])


def trl(asked: Asked, turns: Turns) -> None:
    from trl import DPOConfig, DPOTrainer

    turns.watch()
    rows = [
        {"prompt_ids": p.prompt, "chosen_ids": p.chosen, "rejected_ids": p.rejected}
        for update in updates(asked)
        for p in update
    ]
    settings = DPOConfig(**training.trl_config(asked), loss_type="sigmoid", beta=BETA)
    made = {"model": training.plain_model(asked), "peft_config": training.lora_config()}
    training.run_trl(DPOTrainer, asked, turns, rows, args=settings, **made)


def lean(asked: Asked, turns: Turns) -> None:
    """Pairs of like length together, padded; the head on completion tokens only; PEFT's layers; no trainer around."""
    import torch
    from peft import get_peft_model
    from torch.nn import functional
    from torch.nn.utils import clip_grad_norm_

    turns.watch()
    model: Any = get_peft_model(training.plain_model(asked), training.lora_config())
    training.load_adapter(model, asked)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.LEARNING_RATE, weight_decay=0.0)

    def sums(pairs: Sequence[Pair]) -> torch.Tensor:
        answers = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
        width = max(len(prompt) + len(answer) for prompt, answer in answers)
        # Padded on the right, where a causal model never looks: no mask is needed.
        ids = torch.tensor([[*q, *a, *[0] * (width - len(q) - len(a))] for q, a in answers])
        hidden = model.get_base_model().model(input_ids=ids, use_cache=False).last_hidden_state
        told = [(i, k) for i, (q, a) in enumerate(answers) for k in range(len(q) - 1, len(q) + len(a) - 1)]
        logits = model.get_base_model().lm_head(hidden[[i for i, _ in told], [k for _, k in told]])
        targets = torch.tensor([token for _, answer in answers for token in answer])
        logps = -functional.cross_entropy(logits, targets, reduction="none")
        return torch.stack([each.sum() for each in logps.split([len(answer) for _, answer in answers])])

    for update in updates(asked):
        turns.begin()
        total = 0.0
        for first in range(0, len(update), AT_ONCE):
            pairs = update[first : first + AT_ONCE]
            with torch.no_grad(), model.disable_adapter():
                reference = sums(pairs)
            chosen, rejected = (sums(pairs) - reference).split(len(pairs))
            loss = -functional.logsigmoid(BETA * (chosen - rejected)).sum() / len(update)
            loss.backward()
            total += loss.item()
        clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        turns.end(total)


WAYS = {"start": start, "ours": ours, "TRL": trl, "lean": lean}


def work_of(update: Sequence[Pair]) -> Work:
    """The last token of an answer predicts nothing, so it needs no pass."""
    positions = sum(packed_length([row.chosen, row.rejected]) - 2 for row in rows_of(update))
    scored = sum(len(p.chosen) + len(p.rejected) for p in update)
    tokens = scored + sum(2 * len(p.prompt) for p in update)
    cells = sum(cells_of(len(p.prompt), len(p.chosen) - 1, len(p.rejected) - 1) for p in update)
    return Work(tokens, trained=positions, scored=scored, read=positions, told=scored, cells=4 * cells)


def main() -> None:
    asked = training.options(__doc__, WAYS)
    work = [work_of(update) for update in updates(Asked("", "", asked.rounds + 1))]
    bars = Bars(trl=7.0, memory=2.5, lean=1.5, floor=0.65)
    training.run(Bench("dpo", __file__, work, bars, pieces=2), asked)


if __name__ == "__main__":
    main()
