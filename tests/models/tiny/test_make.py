"""The embedded model is made by the recipe that stands in the code: its first steps are replayed against the log."""

import json

import pytest

from cai.constitution import frames
from cai.models.tiny.corpus import lesson
from cai.models.tiny.make import Recipe, encode, make_model, make_tokenizer, train
from cai.models.tiny.weights import FOLDER
from cai.seeds import derive

REPLAYED = 20


def test_the_first_steps_repeat_the_training_log() -> None:
    logged = [json.loads(line) for line in (FOLDER / "training_log.jsonl").read_text().splitlines()][:REPLAYED]
    recipe = Recipe()
    steps = train(recipe, make_model(recipe), make_tokenizer(recipe))
    replayed = [next(steps) for _ in range(REPLAYED)]
    assert [entry["step"] for entry in logged] == list(range(REPLAYED))
    # Another CPU rounds in another way, and twenty steps amplify that a little; a changed recipe moves far more.
    assert [entry["loss"] for entry in replayed] == pytest.approx([entry["loss"] for entry in logged], rel=5e-3)


def test_the_shipped_tokenizer_is_the_one_that_the_recipe_makes() -> None:
    made = json.loads(make_tokenizer(Recipe()).backend_tokenizer.to_str())
    shipped = json.loads((FOLDER / "tokenizer.json").read_text())
    assert made["model"] == shipped["model"]
    assert max(shipped["model"]["vocab"].values()) < Recipe().vocabulary


def test_only_the_assistants_learned_turns_carry_the_loss() -> None:
    tokenizer = make_tokenizer(Recipe())
    for seed in range(40):
        given = lesson(derive("encode", seed))
        row = encode(tokenizer, given)
        learned = [token for token, weight in zip(row.ids, row.weights, strict=True) if weight > 0]
        assert learned == [
            token
            for number in given.learned
            for token in (*tokenizer.encode(given.messages[number].content, add_special_tokens=False), 1)
        ]


def test_a_frame_costs_one_token_a_piece_and_reads_back_unchanged() -> None:
    tokenizer = make_tokenizer(Recipe())
    text = frames.CRITIQUE.format(critique="Say where the answer wastes words.")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) == 2 + len(tokenizer.encode("Say where the answer wastes words.", add_special_tokens=False))


def test_the_model_is_small_enough_to_ship() -> None:
    parameters = sum(p.numel() for p in make_model(Recipe()).parameters())
    assert parameters <= 5_000_000
