"""Reward models: our trainer against TRL's.

    .venv-peers/bin/python bench/reward.py [--rounds 5] [--choose]

Batches of 8 pairs: prompts of 60 to 300 random tokens, answers of 20 to 200, every answer counted with its prompt.
Rewards are held near zero on both sides. What ours does after the last update, to tell what its scores are worth, TRL
does not do and is not counted. How the sides take turns stands in `training`, what the floor is in `floor`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import training
from floor import Work, cells_of
from training import Bars, Bench, Pair
from turns import Asked, Turns

from cai.models.local.layout import TokenRow, packed_length
from cai.train.config import RewardConfig
from cai.train.preference import items_of
from cai.train.reference import PairRow
from cai.train.reward import train_reward

CENTRING = 0.01


def rows_of(pairs: Sequence[Pair]) -> list[PairRow]:
    return [PairRow(p.id, TokenRow(p.prompt, p.chosen), TokenRow(p.prompt, p.rejected)) for p in pairs]


def updates(asked: Asked) -> list[list[Pair]]:
    pairs = training.pairs(asked.batches)
    return [[pairs[i] for i in batch] for batch in training.order(items_of(rows_of(pairs)), asked)]


def start(asked: Asked, _: Turns) -> None:
    """The adapter and the head that every side begins with: ours, drawn from their seed."""
    training.opened(asked).scoring_trainee(None, training.SEED).save(asked.adapter)


def ours(asked: Asked, turns: Turns) -> None:
    turns.watch()
    scorer = training.opened(asked).scoring_trainee(None, training.SEED)
    config = RewardConfig(**training.our_config(asked), centring=CENTRING, labels="hard", holdout=0.0, dropout=False)
    with tempfile.TemporaryDirectory() as folder:
        for step in train_reward(config, rows_of(training.pairs(asked.batches)), scorer, Path(folder), turns.between):
            turns.end(step.metrics["loss"])


def trl(asked: Asked, turns: Turns) -> None:
    from trl import RewardConfig as Settings
    from trl import RewardTrainer

    turns.watch()
    rows = [
        {"chosen_ids": p.prompt + p.chosen, "rejected_ids": p.prompt + p.rejected}
        for update in updates(asked)
        for p in update
    ]
    settings = Settings(**training.trl_config(asked), center_rewards_coefficient=CENTRING)
    made = {"model": training.plain_model(asked, scores=True), "peft_config": training.lora_config(scores=True)}
    training.run_trl(RewardTrainer, asked, turns, rows, args=settings, **made)


WAYS = {"start": start, "ours": ours, "TRL": trl}


def work_of(update: Sequence[Pair]) -> Work:
    """A score is one number, so there is no head to speak of."""
    positions = sum(packed_length([row.chosen, row.rejected]) for row in rows_of(update))
    tokens = sum(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in update)
    cells = sum(cells_of(len(p.prompt), len(p.chosen), len(p.rejected)) for p in update)
    return Work(tokens, trained=positions, scored=0, cells=3 * cells)


def main() -> None:
    asked = training.options(__doc__, WAYS)
    work = [work_of(update) for update in updates(Asked("", "", asked.rounds + 1))]
    training.run(Bench("reward", __file__, work, Bars(trl=2.0, memory=1.0)), asked)


if __name__ == "__main__":
    main()
