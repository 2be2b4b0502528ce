"""How much is generated together: what follows from the room, what a plan foresees, and that it fits."""

from dataclasses import replace

import pytest

from cai.models.local.fitting import setup_here
from cai.models.local.memory import GIB, Generating, Judging, Setup, Training, held_bytes, need
from cai.models.local.shape import Shape, shape_of
from cai.models.local.spec import ModelSpec, Quantization
from cai.models.local.width import LEAST, LEAST_TOKENS, AtOnce, at_once, width_beside, width_in
from cai.models.tiny.weights import FOLDER

LONG = Generating(10_000, 700, 324)


def test_rows_are_as_many_as_asked_for_as_allowed_and_as_have_places() -> None:
    """1,024 positions a row: 65,536 have room for 64 of them, 8,192 for 8, and one always goes."""
    assert AtOnce(64, 65_536).of(LONG).rows == 64
    assert AtOnce(64, 8_192).of(LONG).rows == 8
    assert AtOnce(4, 65_536).of(LONG).rows == 4
    assert LEAST.of(LONG).rows == 2
    assert LEAST.of(replace(LONG, reply=4_000)).rows == 1
    assert AtOnce().of(replace(LONG, rows=3)).rows == 3
    for other in (Judging(100, 4_000), Training("sft", 100, 4_000, 100)):
        assert LEAST.of(other) is other


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_planned_for_a_room_fits_it_unless_it_is_the_least_there_is(
    llama: Shape, device: str, quantization: Quantization
) -> None:
    setup = Setup(llama, quantization, "cpu" if device == "cpu" else "cuda")
    widths = []
    for room in range(4, 160, 4):
        width = width_in(setup, room * GIB)
        widths.append(width.tokens)
        assert width.tokens == LEAST_TOKENS or need(setup, width.of(LONG)).bytes <= room * GIB
    assert widths == sorted(widths) and widths[0] == LEAST_TOKENS < widths[-1]


def test_a_plan_foresees_what_the_engine_finds_beside_the_loaded_model(llama: Shape) -> None:
    """24 GiB less what is held leave a third for replicas on a GPU; one of 8B in bf16, of 13 GiB, is no third of it."""
    setup = Setup(llama)
    left = 24 * GIB - held_bytes(setup)
    assert width_in(setup, 24 * GIB) == at_once(setup, left) != LEAST
    replica = 2 * llama.linear
    assert left // 3 < replica < (60 * GIB - held_bytes(setup)) // 3
    assert width_in(setup, 60 * GIB) == at_once(setup, 60 * GIB - held_bytes(setup) - replica)
    tiny = setup_here(ModelSpec("tiny"), shape_of(FOLDER), "cpu")
    assert width_in(tiny, 8 * GIB) == width_beside(ModelSpec("tiny"), FOLDER, "cpu", 8 * GIB) == AtOnce()
