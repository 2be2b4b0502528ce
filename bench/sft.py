"""Fine-tuning on answers: our trainer against TRL's.

    .venv-peers/bin/python bench/sft.py [--rounds 5] [--choose]

Batches of 8 answers of 20 to 200 random tokens, each to a prompt of its own of 60 to 300; the loss is of the answers
alone. How the sides take turns stands in `training`, what the floor is in `floor`.
"""

import tempfile
from pathlib import Path

import training
from floor import Work, cells_of
from training import Bars, Bench, Pair
from turns import Asked, Turns

from cai.models.local.layout import TokenRow
from cai.train.config import SftConfig
from cai.train.sft import SftRow, items_of, train_sft


def row_of(pair: Pair) -> SftRow:
    return SftRow(pair.id, TokenRow(pair.prompt, pair.chosen))


def updates(asked: Asked) -> list[list[TokenRow]]:
    rows = [row_of(pair) for pair in training.pairs(asked.batches)]
    return [[rows[i].tokens for i in batch] for batch in training.order(items_of(rows), asked)]


def start(asked: Asked, _: Turns) -> None:
    """The adapter that every side begins with: ours, drawn from its seed."""
    training.opened(asked).trainee(None, training.SEED).save(asked.adapter)


def ours(asked: Asked, turns: Turns) -> None:
    turns.watch()
    trainee = training.opened(asked).trainee(None, training.SEED)
    rows = [row_of(pair) for pair in training.pairs(asked.batches)]
    with tempfile.TemporaryDirectory() as folder:
        config = SftConfig(**training.our_config(asked), epochs=1)
        for step in train_sft(config, rows, trainee, Path(folder), turns.between):
            turns.end(step.metrics["loss"])


def trl(asked: Asked, turns: Turns) -> None:
    from trl import SFTConfig, SFTTrainer

    turns.watch()
    rows = [
        {
            "input_ids": row.prompt_ids + row.completion_ids,
            "labels": (-100,) * len(row.prompt_ids) + row.completion_ids,
        }
        for update in updates(asked)
        for row in update
    ]
    settings = SFTConfig(**training.trl_config(asked))
    made = {"model": training.plain_model(asked), "peft_config": training.lora_config()}
    training.run_trl(SFTTrainer, asked, turns, rows, args=settings, **made)


WAYS = {"start": start, "ours": ours, "TRL": trl}


def work_of(update: list[TokenRow]) -> Work:
    """The last token of an answer predicts nothing, so it needs no pass."""
    scored = sum(len(row.completion_ids) for row in update)
    tokens = scored + sum(len(row.prompt_ids) for row in update)
    cells = sum(cells_of(len(row.prompt_ids), len(row.completion_ids) - 1) for row in update)
    return Work(tokens, trained=tokens - len(update), scored=scored, cells=3 * cells)


def main() -> None:
    asked = training.options(__doc__, WAYS)
    work = [work_of(update) for update in updates(Asked("", "", asked.rounds + 1))]
    training.run(Bench("sft", __file__, work, Bars(trl=2.0, memory=1.0)), asked)


if __name__ == "__main__":
    main()
