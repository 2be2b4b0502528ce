"""The memory arithmetic, with numbers worked out by hand. What torch really holds: test_memory_measured."""

from dataclasses import replace
from typing import get_args

import pytest

from cai.models.local.machine import free_on_gpu
from cai.models.local.memory import (
    GIB,
    TILE_LOGITS,
    Generating,
    Judging,
    Setup,
    Training,
    adapter_parameters,
    cache_bytes,
    four_bit_bytes,
    keeps_dense_copies,
    need,
    peak,
    saved_bytes,
    weight_bytes,
)
from cai.models.local.shape import Shape, shape_from_config, shape_of
from cai.models.local.spec import LoraSpec, Precision
from cai.models.local.width import AtOnce, at_once
from cai.models.tiny.weights import FOLDER

EMBEDDED = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 32,
    "vocab_size": 2048,
    "tie_word_embeddings": True,
}


def test_a_matrix_in_four_bits_is_half_a_byte_a_number_and_scales() -> None:
    """4096² = 16,777,216 numbers: 8,388,608 bytes; 262,144 blocks of 64 with a byte each; 1,024 blocks of 256 of those
    with four bytes each; code books of 16 and of 256 fp32 numbers, and one fp32 mean."""
    assert four_bit_bytes(4096 * 4096) == 8_388_608 + 262_144 + 4 * 1024 + 64 + 1024 + 4
    # 65 numbers: 33 bytes, 2 blocks, 1 block of blocks.
    assert four_bit_bytes(65) == 33 + 2 + 4 + 1092


def test_an_eight_billion_llama_has_the_weights_that_its_card_says(llama: Shape) -> None:
    """8,030,261,248 parameters; of those 2 × 128,256 × 4,096 embeddings and head and 65 norms of 4,096 stay as they
    are, and 6,979,321,856 are in linear layers."""
    assert llama.parameters == 8_030_261_248
    plain = 2 * 128_256 * 4096 + 65 * 4096
    assert weight_bytes(llama, "none", 2) == 2 * 8_030_261_248
    # int8: a byte each, and an fp32 scale for each row of each matrix.
    rows = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
    assert weight_bytes(llama, "int8", 2) == 2 * plain + 6_979_321_856 + 4 * rows
    four_bits = weight_bytes(llama, "nf4", 2) - 2 * plain
    assert four_bits / 6_979_321_856 * 8 == pytest.approx(4.127, abs=0.001), "bits a number, as the QLoRA paper has it"


def test_an_adapter_is_rank_times_both_sides_of_each_matrix(llama: Shape) -> None:
    assert adapter_parameters(llama, LoraSpec(rank=16)) == 41_943_040
    queries_only = LoraSpec(rank=16, targets=("q_proj",))
    assert adapter_parameters(llama, queries_only) == 32 * 16 * (4096 + 4096)


def test_keys_and_values_of_a_position(llama: Shape) -> None:
    """2 × 32 layers × 8 heads × 128 × 2 bytes on a GPU, twice that in fp32."""
    assert cache_bytes(Setup(llama)) == 131_072
    assert cache_bytes(Setup(llama, device="cpu")) == 262_144
    found = need(Setup(llama), Generating(64, 512, 256))
    assert found.of("keys and values") == 64 * 768 * 131_072


def test_what_a_token_leaves_in_a_layer_for_the_backward_pass() -> None:
    """fp32, D = A = K = 192, F = 512, r = 16: both norms' inputs 2·4·192; queries, keys, values and the result, once
    more where it belongs, 5·4·192, a logarithm for each of 6 heads 4·6; gate and up 2·4·512; both
    norms' outputs and the product 4·(2·192 + 512); seven adapters' inner values 7·4·16."""
    setup = Setup(shape_from_config(EMBEDDED), "none", "cpu")
    assert saved_bytes(setup) == 1536 + (3840 + 24) + 4096 + 3584 + 448
    # bf16: half of attention; gate, its activation and up in 2 bytes; each of seven adapters its input in 4.
    assert saved_bytes(replace(setup, precision="bf16")) == 1536 + (1920 + 24) + 3072 + 4 * (6 * 192 + 512) + 448
    # fp32 on a GPU, where nothing is fused: the gate's activation too.
    assert saved_bytes(replace(setup, device="cuda", precision="fp32")) == 1536 + (3840 + 24) + 6144 + 3584 + 448


def test_the_device_decides_what_is_computed_in_only_where_nobody_else_does(llama: Shape) -> None:
    widths = {(d, p): Setup(llama, device=d, precision=p).width for d in ("cpu", "cuda") for p in get_args(Precision)}
    assert widths == {
        ("cpu", "auto"): 4,
        ("cpu", "fp32"): 4,
        ("cpu", "bf16"): 2,
        ("cuda", "auto"): 2,
        ("cuda", "fp32"): 4,
        ("cuda", "bf16"): 2,
    }


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("bf16", 2)])
@pytest.mark.parametrize("stored", [4, 2])
def test_a_cpu_maps_a_file_of_its_own_precision_and_reads_another_before_it_makes_dense_copies(
    llama: Shape, precision: Precision, width: int, stored: int
) -> None:
    shape = replace(llama, stored=stored * llama.parameters, stored_width=stored)
    matrix = 4096 * 14336 * width
    setup = Setup(shape, "nf4", "cpu", precision=precision)
    for copies, taken in ((False, 0), (True, width * shape.linear)):
        found = need(replace(setup, dense_copies=copies))
        assert found.of("dense copies of 4-bit weights") == taken
        assert found.of("weight file, mapped") == (width * shape.linear if stored == width else 0)
        read = matrix + (0 if stored == width else shape.stored)
        assert found.of("reading") == max(0, read - taken)


def test_the_parts_of_a_training_are_named_and_add_up(llama: Shape) -> None:
    work = Training("dpo", 4, 1024, 2048, continued=True)
    found = need(Setup(llama), work)
    adapter = 4 * 41_943_040
    assert found.of("trained adapters") == 2 * adapter, "the policy and its frozen copy"
    assert (found.of("gradients"), found.of("optimizer")) == (adapter, 2 * adapter)
    assert found.bytes == sum(part.bytes for part in found.parts)
    fresh = need(Setup(llama), replace(work, continued=False))
    assert fresh.of("trained adapters") == adapter, "the reference is the base itself"
    assert need(Setup(llama), replace(work, method="ppo")).of("optimizer") == 4 * adapter, "policy and value"


def test_roles_are_counted_as_they_are_held(llama: Shape) -> None:
    """From an adapter, PPO trains policy and value beside a frozen reference and what is rewarded by; GRPO has no
    value. A reward model has no reference."""
    setup, adapter = Setup(llama), 4 * 41_943_040
    pass_ = Training("ppo", 8, 192, 1024, continued=True, shared=64, family=4, scorers=1)
    for work, held, trained, scorers in (
        (pass_, 3, 2, 1),
        (replace(pass_, method="policy"), 2, 1, 1),
        (replace(pass_, method="policy", continued=False, scorers=0), 1, 1, 0),
        (replace(pass_, method="reward", scorers=0), 1, 1, 0),
    ):
        found = need(setup, work)
        assert (found.of("trained adapters"), found.of("reward models")) == (held * adapter, scorers * adapter)
        assert (found.of("gradients"), found.of("optimizer")) == (trained * adapter, 2 * trained * adapter)


def test_answers_to_one_prompt_read_it_once() -> None:
    """Eight answers of 128 tokens to two prompts of 64: 2·64 + 8·128. A ninth begins another prompt."""
    work = Training("policy", 8, 192, 1024, shared=64, family=4)
    assert work.tokens == 2 * 64 + 8 * 128
    assert replace(work, rows=9).tokens == 3 * 64 + 9 * 128


def test_answers_are_sampled_beside_all_that_is_trained(llama: Shape) -> None:
    """The gradients are gone by then; weights, moments and, on a CPU, a dense replica of the policy are not. No more is
    kept than 16 rows of 192 positions."""
    setup = Setup(llama, device="cpu", replicas=3)
    alone = Generating(16, 64, 128, total=16)
    within = replace(alone, within=Training("ppo", 8, 192, 1024, scorers=1))
    found, plain = need(setup, within), need(setup, alone)
    adapter = 4 * 41_943_040
    assert found.bytes - plain.bytes == (2 + 1 + 2 * 2) * adapter + 4 * llama.linear
    assert found.of("dense replicas") == 4 * llama.linear
    assert found.of("gradients") == 0
    assert need(setup, replace(alone, total=1)).of("kept keys and values") == 192 * cache_bytes(setup)
    assert need(setup, replace(alone, total=None)).of("kept keys and values") == 512 << 20


def test_logits_are_held_in_tiles() -> None:
    """Beyond 2²⁰ logits, which 9 tokens make here, more scored tokens cost only their hidden states and gradients: 192
    numbers in fp32 three times."""
    setup = Setup(shape_from_config({**EMBEDDED, "vocab_size": 128_256}), "none", "cpu")
    small, large = (need(setup, Training("sft", 1, 8, n)).of("under way") for n in (20_000, 20_500))
    assert large - small == 500 * 192 * 12
    assert small == 4 * TILE_LOGITS["cpu"] + 20_000 * 192 * 12


def test_a_prompt_that_two_rows_share_is_computed_once_and_its_keys_are_copied(llama: Shape) -> None:
    """Two pairs of 1024 tokens, of which 600 are the prompt: each pair computes 2·1024 − 600."""
    work = Training("dpo", 4, 1024, 2048, shared=600)
    assert work.tokens == 2 * (2048 - 600)
    setup = Setup(llama)
    copies = 2 * 8 * 128 * 2 * 2 * 600
    whole = 31 * work.tokens * saved_bytes(setup) + last_layer(setup, work)
    assert need(setup, work).of("activations") == whole + 32 * copies


def last_layer(setup: Setup, work: Training) -> int:
    """Whole where a completion's tokens are told; of other positions, a normed input (fp32) and its keys and values."""
    asked = work.scored + work.rows
    keys = 2 * setup.shape.key_heads * setup.shape.head_width * setup.width
    return asked * saved_bytes(setup) + (work.tokens - asked) * (4 * setup.shape.width + keys)


def test_checkpointing_keeps_the_inputs_of_layers_and_one_whole_layer(llama: Shape) -> None:
    setup = Setup(llama)
    works = [Training("sft", 4, 1024, 2048, checkpointing=c) for c in (False, True)]
    plain, again = (need(setup, work).of("activations") for work in works)
    assert plain == 31 * 4096 * saved_bytes(setup) + last_layer(setup, works[0])
    assert again == 4096 * (32 * 2 * 4096 + saved_bytes(setup))


def test_more_rows_longer_rows_and_more_bits_never_need_less(llama: Shape) -> None:
    works = (Generating(8, 64, 64), Judging(8, 128), Training("sft", 8, 128, 512))
    for work in works:
        for quantization, more in (("nf4", "int8"), ("int8", "none")):
            assert need(Setup(llama, quantization), work).bytes < need(Setup(llama, more), work).bytes
        assert need(Setup(llama), work).bytes <= need(Setup(llama), replace(work, rows=16)).bytes


def test_while_a_model_is_asked_each_adapter_has_a_replica_as_far_as_that_is_allowed(
    llama: Shape,
) -> None:
    for adapters, replicas, held in ((0, 3, 0), (2, 3, 2), (2, 1, 1)):
        setup = Setup(llama, device="cpu", adapters=adapters, replicas=replicas)
        for work in (Judging(1, 8), Generating(1, 8, 8)):
            assert need(setup, work).of("dense replicas") == held * 4 * llama.linear
        assert not need(setup, Training("sft", 1, 8, 8)).of("dense replicas")


def test_the_peak_is_the_largest_phase(llama: Shape) -> None:
    needs = [need(Setup(llama), work) for work in (None, Judging(1, 8), Training("sft", 4, 1024, 2048))]
    assert peak(needs).phase == "train"


def test_a_cpu_keeps_dense_copies_where_they_take_a_quarter_of_its_memory() -> None:
    assert keeps_dense_copies(4 * GIB, 16 * GIB)
    assert not keeps_dense_copies(4 * GIB + 1, 16 * GIB)


def test_how_much_is_generated_at_once_follows_from_what_is_free(llama: Shape) -> None:
    """An 8B Llama keeps 131,072 bytes a position. Beside 512 MiB kept and 4,096 positions of a prompt under way
    (2 × 4,096 + 4 × 14,336 numbers each, and a matrix unpacked) and 0.3 GiB of recorded steps, 85 % of 8 GiB hold
    32,768 positions; of 4 GiB 8,192, since 16,384 and another layer's are 2,112 MiB and there are 2,061."""
    setup = Setup(llama)
    assert at_once(setup, 64 * GIB) == AtOnce(128, 131_072), "there is a bound however much is free"
    found = [at_once(setup, room * GIB) for room in (8, 4)]
    assert found == [AtOnce(128, 32_768), AtOnce(128, 8_192)]
    assert at_once(setup, 8 * GIB - 50_000_000) == found[0], "a little less changes nothing"
    assert at_once(setup, 0) == at_once(setup, -GIB) == AtOnce(128, 2048), "a beginning there always is"


def test_a_cpu_with_memory_enough_generates_as_many_rows_as_ever() -> None:
    tiny = Setup(shape_of(FOLDER), device="cpu")
    assert at_once(tiny, 4 * GIB) == AtOnce() == AtOnce(64, 65_536)
    assert AtOnce(64, 65_536).halved() == AtOnce(32, 32_768)


def test_free_memory_of_a_gpu_is_what_torch_may_have_and_what_it_has_unused() -> None:
    """Of 80 GB the driver has 60 left, and torch holds 15 of which it uses 12."""
    assert free_on_gpu(60, 80, 15, 12) == 63
    assert free_on_gpu(60, 22, 15, 12) == 10, "under a limit of 22, 7 more and the 3 that are unused"
    assert free_on_gpu(60, 12, 15, 12) == 3, "over the limit there is only what is unused"
