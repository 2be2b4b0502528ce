"""Compiled kernels against torch: values, gradients, what is no number, who uses them, and who makes them."""

import os
import stat
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cai.models.local import beside, compiled, kernels, lanes
from cai.models.local.compiled import library
from cai.models.local.fused import fuse
from cai.models.local.head import LogitForm, token_logps
from cai.models.local.kernels import Kernels, machine_kernels, used
from cai.models.local.layout import TokenRow, lay_out
from cai.models.local.logprobs import completion_logps
from cai.models.local.packed import How, Packing
from cai.models.local.spec import LoraSpec
from cai.models.local.straight import StraightPacking
from tests.models.local.test_fused import llama_parts, told

SOURCE = Path(kernels.__file__).with_name("kernels.c")
CPU = torch.device("cpu")
TEXT = tuple(range(1, 60))
ROWS = [
    TokenRow(TEXT[:45], TEXT[20:59]),
    TokenRow(TEXT[:45], TEXT[:3]),
    TokenRow(TEXT[:45], TEXT[:33]),
    TokenRow((5,), (6,)),
    TokenRow(TEXT[:7], TEXT[:40]),
]
CLOSE = 2e-6
HEADS = [(4, 4, 32), (4, 2, 32), (6, 1, 64)]


@pytest.fixture
def found() -> Kernels:
    made = machine_kernels()
    if made is None:
        pytest.skip("no C compiler, or none whose work agrees with torch")
    return made


def drawn(*shape: int, seed: int = 0, kind: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(kind)


def looked(packing: Packing | StraightPacking, how: How, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """What comes of a look and what flows back, to which every position gives something of its own."""
    inputs = [each.clone().requires_grad_() for each in inputs]
    with torch.enable_grad():
        out = packing.attend(*inputs, how)
    return [out.detach(), *torch.autograd.grad(out, inputs, drawn(*out.shape, seed=9, kind=out.dtype))]


def difference(mine: torch.Tensor, own: torch.Tensor) -> float:
    return float((mine.double() - own.double()).norm() / own.double().norm())


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("window", [None, 9, 40, 500])
@pytest.mark.parametrize("narrow", [False, True], ids=["every position", "asked positions"])
def test_a_look_is_torch_s_own_in_fp64(found, heads, window, narrow):
    layout = lay_out(ROWS, "states")
    size, asked = len(layout.ids), layout.asked if narrow else None
    entries = layout.last if narrow else layout.entries
    H, G, D = heads
    inputs = [drawn(len(asked or layout.ids), H, D, seed=1), drawn(size, G, D, seed=2), drawn(size, G, D, seed=3)]
    how = How(D**-0.5, window, None)
    theirs = looked(Packing(entries, size, CPU, asked), how, [each.double() for each in inputs])
    with used(found):
        ours = looked(StraightPacking(entries, size, CPU, asked), how, inputs)
    assert max(difference(*each) for each in zip(ours, theirs, strict=True)) < CLOSE


def test_any_number_of_threads_finds_the_same_to_the_last_bit(found):
    layout = lay_out(ROWS, "states")
    size, how = len(layout.ids), How(0.2, None, None)
    inputs = [drawn(size, heads, 32, seed=heads) for heads in (6, 3, 3)]
    gated, norm = llama_parts(48, 96)
    fuse(torch.nn.ModuleList([gated, norm]))
    before, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with used(found):
                seen.append(looked(StraightPacking(layout.entries, size, CPU), how, inputs))
                seen[-1] += [found.turned(inputs[0], *(drawn(size, 32, seed=k) for k in (4, 5)))]
            parts = drawn(7, 96, seed=1), drawn(7, 96, seed=2), drawn(7, 96, seed=3)
            normed, rates = found.normed(parts[0], drawn(96, seed=6), 1e-5)
            seen[-1] += [found.gated(*parts[:2]), *found.gated_back(*parts), normed]
            seen[-1] += [found.normed_back(parts[1], parts[0], drawn(96, seed=6), rates)]
    finally:
        torch.set_num_threads(before)
    for one, *others in zip(*seen, strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_other_looks_are_left_to_torch(found):
    """Capped scores, heads of another width, other precisions, and threads without kernels."""
    layout = lay_out(ROWS, "states")
    size = len(layout.ids)
    plain = How(0.2, None, None)
    for width, how, kind, here in [
        (32, How(0.2, None, 5.0), torch.float32, found),
        (24, plain, torch.float32, found),
        (32, plain, torch.float64, found),
        (32, plain, torch.bfloat16, found),
        (32, plain, torch.float32, None),
    ]:
        inputs = [drawn(size, 2, width, seed=k, kind=kind) for k in range(3)]
        with used(here):
            ours = looked(StraightPacking(layout.entries, size, CPU), how, inputs)
        theirs = looked(Packing(layout.entries, size, CPU), how, inputs)
        assert all(torch.equal(*each) for each in zip(ours, theirs, strict=True))


def test_scores_may_be_large_and_what_is_no_number_stays_none(found):
    """One text's queries are not asked about another's."""
    layout = lay_out([TokenRow((1,) * 20, (2,) * 30), TokenRow((3,) * 20, (4,) * 30)], "states")
    size, how = len(layout.ids), How(1.0, None, None)
    inputs = [300 * drawn(size, 2, 32, seed=k) for k in range(3)]
    theirs = looked(Packing(layout.entries, size, CPU), how, [each.double() for each in inputs])
    packing = StraightPacking(layout.entries, size, CPU)
    with used(found):
        ours = looked(packing, how, inputs)
        # Scores of a hundred thousand are known to a hundredth in fp32, and so are their exponentials.
        assert difference(ours[0], theirs[0]) < 0.02
        broken = [each.clone() for each in inputs]
        broken[0][30, 1, 5] = torch.nan
        out = packing.attend(*broken, how)
    assert out[30, 1].isnan().all() and int(out.isnan().any(-1).sum()) == 1


@pytest.mark.parametrize("width", [96, 104], ids=["by kernels", "another width, by torch"])
def test_gates_and_norms_are_the_modules_own(found, width):
    x, given = (5 * drawn(3, 37, width, seed=k) for k in range(2))
    x[0, 0, :4] = torch.tensor([200.0, -200.0, 0.0, -0.0])
    for module in llama_parts(width, 2 * width):
        before = told(module, x, given)
        assert fuse(torch.nn.ModuleList([module])) == 1
        with used(found):
            after = told(module, x, given)
            with torch.no_grad():
                assert torch.equal(module(x), after[0])
        assert max(difference(*each) for each in zip(after, before, strict=True)) < CLOSE
    gate = torch.tensor([torch.nan, torch.inf, 1e4, -1e4] + [1.0] * 12)
    ours, theirs = found.gated(gate, torch.ones(16)), functional.silu(gate)
    assert ours[0].isnan() and torch.allclose(ours[1:], theirs[1:])


@pytest.mark.parametrize("form", [LogitForm(), LogitForm(0.5, 4.0, 0.7)], ids=["plain", "scaled and capped"])
@pytest.mark.parametrize("room", [64, 400, 1 << 20], ids=["narrow tiles", "tiles", "one tile"])
def test_a_head_in_tiles_says_what_torch_says(found, form, room):
    hidden, weight = drawn(9, 24, seed=1).requires_grad_(), 8 * drawn(96, 24, seed=2)
    targets, given = torch.arange(9) * 10, drawn(9, seed=3)
    said = []
    for here in (None, found):
        with used(here):
            logps = token_logps(hidden, weight, targets, form, room)
        said.append([logps.detach(), *torch.autograd.grad(logps, hidden, given)])
    assert max(difference(*each) for each in zip(*said, strict=True)) < CLOSE


def test_logits_that_are_no_numbers_give_none(found):
    hidden, weight = drawn(3, 24, seed=1), drawn(96, 24, seed=2)
    hidden[1, 0] = torch.nan
    with used(found):
        logps = token_logps(hidden, weight, torch.arange(3), LogitForm(), 64)
    assert logps.isnan().tolist() == [False, True, False]


@pytest.fixture
def two_threads(monkeypatch):
    """Of which each has a lane, however short the pass."""
    before = torch.get_num_threads()
    monkeypatch.setattr(lanes, "LEAST", 1)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("merged", [1, 1 << 30], ids=["adapters merged for the pass", "adapters beside"])
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen3"])
def test_a_training_pass_is_what_it_is_without(found, two_threads, make_model, open_bench, monkeypatch, kind, merged):
    monkeypatch.setattr(beside, "MERGED", merged)
    trainee = open_bench("none", make_model(kind, head_dim=32), lora=LoraSpec(rank=4)).trainee(None, 1)
    for number, each in enumerate(trainee.parameters().values()):
        each.data.add_(drawn(*each.shape, seed=number) / 20)
    looks: list[int] = []
    attend = found.attend

    def counting(*given):
        looks.append(1)
        return attend(*given)

    monkeypatch.setattr(found, "attend", counting)
    seen = []
    for here in (None, found):
        monkeypatch.setattr(lanes, "machine_kernels", lambda here=here: here)
        sums = trainee.policy_logps(ROWS).sums()
        gradients = torch.autograd.grad(sums @ drawn(len(ROWS), seed=7), list(trainee.parameters().values()))
        seen.append([sums.detach(), *gradients])
        assert bool(looks) == (here is not None)
    assert max(difference(*each) for each in zip(*seen, strict=True)) < 2e-5


def test_an_untrained_policy_is_its_reference_to_the_last_bit(found, two_threads, make_model, open_bench, monkeypatch):
    monkeypatch.setattr(beside, "MERGED", 1)
    trainee = open_bench("none", make_model("Llama", head_dim=32), lora=LoraSpec(rank=4)).trainee(None, 1)
    assert torch.equal(trainee.policy_logps(ROWS).sums(), trainee.reference_logps(ROWS).sums())


def test_one_lane_has_no_kernels(found, make_model, open_bench, monkeypatch):
    """Small models keep the last bits that torch gives them, with a compiler and without."""
    monkeypatch.setattr(found, "attend", None)
    trainee = open_bench("none", make_model("Llama", head_dim=32), lora=LoraSpec(rank=4)).trainee(None, 1)
    assert completion_logps(trainee._network, ROWS, lanes=True).sums().isfinite().all()


@pytest.fixture
def logging_compiler(tmp_path, monkeypatch, found) -> Path:
    """`cc`, which writes down each time it is called, and a cache of its own."""
    log, wrapper = tmp_path / "log", tmp_path / "compiler with a blank"
    wrapper.write_text(f'#!/bin/sh\necho called >> "{log}"\nexec {os.environ.get("CC", "cc")} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", f'"{wrapper}"')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return log


def small(folder: Path) -> Path:
    source = folder / "small.c"
    source.write_text("int one(void) { return 1; }\n")
    return source


def test_a_library_is_made_once_and_by_ourselves(logging_compiler, tmp_path):
    source = small(tmp_path)
    assert library(source).one() == library(source).one() == 1
    assert logging_compiler.read_text().count("called") == 1
    (kept,) = (tmp_path / "cache" / "cai" / "kernels").iterdir()
    assert not kept.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    kept.chmod(0o666)
    assert library(source).one() == 1
    assert logging_compiler.read_text().count("called") == 2
    source.write_text("int one(void) { return 2; }\n")
    assert library(source).one() == 2


def test_a_damaged_library_is_made_again(logging_compiler, tmp_path):
    source = small(tmp_path)
    library(source)
    (kept,) = (tmp_path / "cache" / "cai" / "kernels").iterdir()
    kept.unlink()
    kept.write_bytes(b"no library")
    assert library(source).one() == 1
    assert logging_compiler.read_text().count("called") == 2


def test_without_a_place_to_keep_it_a_library_is_made_each_time(logging_compiler, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert library(small(tmp_path)).one() == 1


@pytest.mark.parametrize("command", ["", "no-such-compiler", "false", "true"])
def test_without_a_compiler_there_is_no_library(monkeypatch, tmp_path, command):
    monkeypatch.setenv("CC", command)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library(small(tmp_path)) is None


def test_a_compiler_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "_SECONDS", 0.2)
    monkeypatch.setenv("CC", "sh -c 'exec sleep 20'")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library(small(tmp_path)) is None


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("* pass->scale;", ";"),
        ("lowest / TILE", "lowest"),
        ("1.0f - part", "1.0f"),
        ("sqrtf(", "("),
        ("* shrunk[r]", ""),
    ],
)
def test_kernels_that_calculate_otherwise_are_not_used(tmp_path, found, right, wrong):
    text = SOURCE.read_text("utf-8")
    source = tmp_path / "kernels.c"
    assert right in text
    source.write_text(text.replace(right, wrong, 1))
    made = library(source)
    assert made is not None and not kernels._agrees(Kernels(made))


def test_vectors_are_as_long_as_registers(found, monkeypatch, tmp_path):
    """Of 32 bytes without AVX-512; on a processor with shorter ones there are no kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "cc -mno-avx512f")
    shorter = library(SOURCE)
    assert shorter is not None and kernels._agrees(Kernels(shorter))
    monkeypatch.setenv("CC", "cc -mno-avx2")
    assert library(SOURCE) is None
