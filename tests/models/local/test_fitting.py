"""What fits on which card, the nearest setting that does, and how a refusal reads."""

from dataclasses import replace

import pytest

from cai.errors import InputError
from cai.models.local.fitting import CARDS, cards_for, fits, nearest, require, require_loadable, room_of, setup_for
from cai.models.local.memory import GIB, Generating, Judging, Setup, Training, need
from cai.models.local.shape import Shape
from cai.models.local.spec import ModelSpec
from cai.models.tiny.weights import FOLDER


def test_a_card_holds_a_little_less_than_its_name() -> None:
    assert room_of(24) == int(24 * GIB * 0.95)
    assert cards_for(0) == CARDS
    assert cards_for(23 * GIB) == (48, 80)
    assert cards_for(200 * GIB) == ()


def test_what_changes_no_result_is_changed_first(llama: Shape) -> None:
    """Fewer rows at once come before other weights, and other weights before shorter texts."""
    setup, work = Setup(llama, "none"), Training("sft", 16, 512, 4096)
    fewer = nearest(setup, work, room_of(48))
    assert fewer is not None
    assert fewer.changes == ("micro_tokens: 2048",)
    lighter = nearest(setup, work, room_of(16))
    assert lighter is not None
    assert lighter.changes[0].startswith("model.quantization: ")
    assert not any("sequences" in change for change in lighter.changes)
    again = nearest(Setup(llama), Training("sft", 1, 4096, 2048), room_of(16))
    assert again is not None
    assert again.changes == ("checkpointing: true",)
    short = nearest(Setup(llama), Training("sft", 1, 32_768, 2048, checkpointing=True), room_of(16))
    assert short is not None
    assert any(change.startswith("sequences of at most ") for change in short.changes)


def test_the_nearest_setting_fits_and_a_nearer_one_does_not(llama: Shape) -> None:
    for work in (Training("dpo", 16, 512, 4096), Generating(64, 1024, 512), Judging(16, 1024)):
        setup = Setup(llama, "none")
        for card in CARDS:
            found = nearest(setup, work, room_of(card))
            if found is not None:
                assert found.bytes <= room_of(card)
                assert bool(found.changes) == (not fits(need(setup, work).bytes, card))


def test_the_rows_of_a_policys_round_are_called_by_their_settings(llama: Shape) -> None:
    within = Generating(64, 1024, 512, within=Training("ppo", 1, 1536, 512))
    found = nearest(Setup(llama), within, room_of(16))
    assert found is not None and found.changes[0].startswith("batch_size × samples: ")


def test_nothing_makes_a_fifteen_billion_model_train_on_eight_gigabytes(llama: Shape) -> None:
    larger = replace(llama, layers=64, linears=llama.linears * 2)
    assert 14e9 < larger.parameters < 16e9
    assert nearest(Setup(larger), Training("sft", 4, 1024, 2048), room_of(8)) is None


def test_a_refusal_says_place_parts_room_and_remedy(llama: Shape) -> None:
    setup = Setup(llama, "none")
    need_now, remedy = need(setup), nearest(setup, None, room_of(16))
    with pytest.raises(InputError) as caught:
        require("org/model", "cuda:0", need_now, room_of(16), remedy)
    told = str(caught.value)
    assert told.startswith("org/model: loading needs 15.6 GiB on cuda:0 (weights 15.0 GiB, ")
    assert "got 15.2 GiB; set model.quantization: int8, which needs " in told
    assert told.endswith("--no-memory-check tries it all the same")
    require("org/model", "cuda:0", need_now, need_now.bytes, None)


def test_the_embedded_model_may_be_loaded_and_what_cannot_be_told_is_let_through(tmp_path) -> None:
    require_loadable(ModelSpec("tiny"), FOLDER, "cpu")
    (tmp_path / "config.json").write_text("{}")
    require_loadable(ModelSpec(str(tmp_path)), tmp_path, "cpu")


def test_dense_copies_are_planned_where_the_loader_makes_them(llama: Shape) -> None:
    spec = ModelSpec("org/model")
    assert setup_for(spec, llama, "cpu", 1024 * GIB).dense_copies
    assert not setup_for(spec, llama, "cpu", 64 * GIB).dense_copies
    assert not setup_for(spec, llama, "cuda", 1024 * GIB).dense_copies
    assert not setup_for(replace(spec, quantization="none"), llama, "cpu", 1024 * GIB).dense_copies
    # In bf16 they take 15 GiB, and a quarter of 64 GiB is 16.
    assert setup_for(replace(spec, precision="bf16"), llama, "cpu", 64 * GIB).dense_copies
