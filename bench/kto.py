"""KTO: our trainer against TRL's.

    .venv-peers/bin/python bench/kto.py [--rounds 5] [--choose]

Batches of 8 answers of 20 to 200 random tokens, each to a prompt of its own of 60 to 300, and desirable or not. The
drift is a mean over the rows of a pass in TRL and over those of the update in ours: the two are the same method where
TRL's update is one pass, which is the only setting it has here. The passes over strange pairings are work, but bring
no tokens. How the sides take turns stands in `training`, what the floor is in `floor`.
"""

import tempfile
from pathlib import Path

import training
from floor import Work, cells_of
from training import Bars, Bench, Pair
from turns import Asked, Turns

from cai.models.local.layout import TokenRow
from cai.seeds import derive, uniform
from cai.train.config import KtoConfig
from cai.train.kto import KtoRow, items_of, train_kto

BETA = 0.1


def row_of(pair: Pair) -> KtoRow:
    desirable = uniform(derive("bench", pair.id), 0) < 0.5
    return KtoRow(pair.id, TokenRow(pair.prompt, pair.chosen if desirable else pair.rejected), float(desirable))


def updates(asked: Asked) -> list[list[KtoRow]]:
    rows = [row_of(pair) for pair in training.pairs(asked.batches)]
    return [[rows[i] for i in batch] for batch in training.order(items_of(rows), asked)]


def start(asked: Asked, _: Turns) -> None:
    """The adapter that every side begins with: ours, drawn from its seed."""
    training.opened(asked).trainee(None, training.SEED).save(asked.adapter)


def ours(asked: Asked, turns: Turns) -> None:
    turns.watch()
    trainee = training.opened(asked).trainee(None, training.SEED)
    rows = [row_of(pair) for pair in training.pairs(asked.batches)]
    with tempfile.TemporaryDirectory() as folder:
        config = KtoConfig(**training.our_config(asked), beta=BETA)
        for step in train_kto(config, rows, trainee, Path(folder), turns.between):
            turns.end(step.metrics["loss"])


def trl(asked: Asked, turns: Turns) -> None:
    from trl import KTOConfig, KTOTrainer

    turns.watch()
    rows = [
        {
            "prompt_ids": row.tokens.prompt_ids,
            "completion_ids": row.tokens.completion_ids,
            "KL_completion_ids": update[k - 1].tokens.completion_ids,
            "label": row.p_desirable == 1.0,
        }
        for update in updates(asked)
        for k, row in enumerate(update)
    ]
    settings = KTOConfig(**training.trl_config(asked), loss_type="kto", beta=BETA)
    made = {"model": training.plain_model(asked), "peft_config": training.lora_config()}
    training.run_trl(KTOTrainer, asked, turns, rows, args=settings, **made)


WAYS = {"start": start, "ours": ours, "TRL": trl}


def work_of(update: list[KtoRow]) -> Work:
    """Policy and reference read each prompt with two answers, of which one has gradients; an answer's last token
    predicts nothing."""
    prompts = sum(len(row.tokens.prompt_ids) for row in update)
    scored = sum(len(row.tokens.completion_ids) for row in update)
    ends = len(update)
    shapes = [(len(row.tokens.prompt_ids), len(row.tokens.completion_ids) - 1) for row in update]
    own = sum(cells_of(prompt, answer) for prompt, answer in shapes)
    strange = sum(cells_of(shapes[k][0], shapes[k - 1][1]) - cells_of(shapes[k][0]) for k in range(ends))
    return Work(
        prompts + scored,
        trained=prompts + scored - ends,
        scored=scored,
        read=prompts + 2 * (scored - ends) + (scored - ends),
        told=3 * scored,
        cells=4 * own + 2 * strange,
    )


def main() -> None:
    asked = training.options(__doc__, WAYS)
    work = [work_of(update) for update in updates(Asked("", "", asked.rounds + 1))]
    training.run(Bench("kto", __file__, work, Bars(trl=4.0, memory=1.0), pieces=2, whole=True), asked)


if __name__ == "__main__":
    main()
