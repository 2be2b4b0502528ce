"""Steps of fixed shapes say what plain steps and transformers' generate say; what cannot be recorded is done plainly.

On a CPU a step is not recorded but run again, on the same memory in the same shapes: the rest is what a GPU does.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local import steps as steps_module
from cai.models.local.decode import DecodeRow, Decoding, Memory, decode
from cai.models.local.graphs import recorder
from cai.models.local.network import Network
from cai.models.local.prefix import MIN_SHARED, Kept
from cai.models.local.steps import Steps, bucket
from cai.models.local.width import AtOnce
from cai.models.protocol import Sampling
from tests.models.local.recording import recording

KINDS = ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3"]
GREEDY = Sampling(temperature=0, max_new_tokens=24)


def never(i: int, ids: object) -> bool:
    return False


def prompts(count: int, longest: int = 30) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(3, longest, (count,), generator=generator).tolist()
    return [tuple(torch.randint(5, 290, (length,), generator=generator).tolist()) for length in lengths]


def exact_network(folder: Path) -> Network:
    """In fp64, so that only real differences count; Gemma 2 in fp32, as in `test_decode`."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    return Network(model if model.config.model_type == "gemma2" else model.double(), str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_steps_of_fixed_shapes_equal_generate_token_for_token(make_model, kind):
    network = exact_network(make_model(kind))
    steps, recorder = recording(network)
    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(7)]
    ours = decode(network, rows, never, steps=steps)
    for row, decoded in zip(rows, ours, strict=True):
        theirs = network.model.generate(
            torch.tensor([row.prompt_ids]),
            attention_mask=torch.ones(1, len(row.prompt_ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=None,
        )
        assert decoded.ids == tuple(theirs[0, len(row.prompt_ids) :].tolist())
    assert (recorder.recorded, recorder.replayed) == (1, 23), "8 rows of 128 columns are one shape"
    assert len({decoded.ids for decoded in ours}) > 3, "the random model says the same to everything"


@pytest.mark.parametrize("kind", KINDS)
def test_behind_a_shared_beginning_rows_that_come_and_go_draw_what_they_draw_plainly(make_model, monkeypatch, kind):
    """Rows end one by one and others take their places, so that shapes change all the time, with small buckets more."""
    monkeypatch.setattr(steps_module, "LEAST_COLUMNS", 8)
    network = exact_network(make_model(kind))
    steps, recorder = recording(network)
    beginning = tuple(range(20, 20 + 2 * MIN_SHARED + 3))
    limits = [3, 17, 9, 1, 24, 6, 12, 2, 20]
    for shared in ((), beginning):
        rows = [
            DecodeRow((*shared, *ids), Sampling(temperature=0.9, max_new_tokens=limit), seed, logps=True)
            for seed, (ids, limit) in enumerate(zip(prompts(9), limits, strict=True))
        ]
        for at_once in (AtOnce(), AtOnce(rows=3)):
            plain = decode(network, rows, never, at_once=at_once)
            fixed = decode(network, rows, never, at_once=at_once, steps=steps)
            assert [row.ids for row in fixed] == [row.ids for row in plain]
            for ours, theirs in zip(fixed, plain, strict=True):
                assert ours.logps == pytest.approx(theirs.logps, abs=1e-4)
    assert steps.on
    assert recorder.recorded > 8
    assert recorder.replayed > recorder.recorded


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Gemma2"])
def test_a_conversation_goes_on_from_states_that_fixed_steps_made(make_model, kind):
    network = exact_network(make_model(kind))
    (steps, _), memory = recording(network), Memory(Kept(1 << 26), "base")
    beginning = tuple(range(30, 30 + MIN_SHARED + 5))
    first = [DecodeRow((*beginning, *ids), GREEDY, 0) for ids in prompts(6)]
    answers = decode(network, first, never, memory, steps=steps)
    second = [
        DecodeRow((*row.prompt_ids, *answer.ids, 40, 41, 42 + n), GREEDY, 0)
        for n, (row, answer) in enumerate(zip(first, answers, strict=True))
    ]
    assert decode(network, second, never, memory, steps=steps) == decode(network, second, never)


@pytest.mark.parametrize("kind", ["Llama", "Phi3"])
def test_in_single_precision_tokens_are_equal_up_to_two_that_are_almost_as_likely(make_model, kind):
    network = Network(AutoModelForCausalLM.from_pretrained(make_model(kind)).eval(), kind)
    rows = [DecodeRow(ids, Sampling(temperature=0, max_new_tokens=64), 0) for ids in prompts(12)]
    fixed, plain = decode(network, rows, never, steps=recording(network)[0]), decode(network, rows, never)
    for row, ours, theirs in zip(rows, fixed, plain, strict=True):
        if ours.ids == theirs.ids:
            continue
        same = next(k for k, (a, b) in enumerate(zip(ours.ids, theirs.ids, strict=True)) if a != b)
        ids = torch.tensor([[*row.prompt_ids, *ours.ids[:same]]])
        with torch.no_grad():
            best, second = network.logits(network.hidden(ids)[0, -1:])[0].topk(2).values.tolist()
        assert best - second < 1e-4


def test_what_cannot_be_recorded_is_done_plainly_and_said_once(make_model, caplog):
    network, tried = exact_network(make_model()), []

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        tried.append(work)
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(5)]
    steps = Steps(network, refuse)
    with caplog.at_level(logging.WARNING):
        assert decode(network, rows, never, steps=steps) == decode(network, rows, never)
        assert decode(network, rows, never, steps=steps) == decode(network, rows, never)
    assert len(tried) == 1
    assert not steps.on
    assert [record.message for record in caplog.records] == [
        "decoding goes on without recorded steps, which is slower: operation not permitted when stream is capturing"
    ]


@pytest.mark.parametrize("wrong", ["other numbers", "no numbers"])
def test_a_recording_that_says_something_else_is_never_believed(make_model, caplog, wrong):
    network = exact_network(make_model())
    steps = Steps(network, None)

    def record(work: Callable[[], None]) -> Callable[[], None]:
        def replay() -> None:
            work()
            assert steps._room is not None
            steps._room.logits_RV[1, 3] += 1.0 if wrong == "other numbers" else torch.nan

        return replay

    steps._record = record
    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(5)]
    with caplog.at_level(logging.WARNING):
        assert decode(network, rows, never, steps=steps) == decode(network, rows, never)
    assert not steps.on
    assert "differs from the plain one" in caplog.text


def test_without_memory_for_the_room_steps_are_plain(make_model, caplog):
    network = exact_network(make_model())

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(5)]
    wanted = decode(network, rows, never)
    steps, _ = recording(network)
    steps._fitting = full  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        assert decode(network, rows, never, steps=steps) == wanted
    assert "there is no memory for 5 rows of" in caplog.text


def test_a_shape_is_recorded_once_for_each_speaker_and_the_oldest_go_first(make_model, monkeypatch):
    network = exact_network(make_model())
    steps, recorder = recording(network)
    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(5)]

    def speak(*speaker: object) -> int:
        before = recorder.recorded
        with steps.speaking(*speaker):
            decode(network, rows, never, steps=steps)
        return recorder.recorded - before

    assert [speak("policy", 1), speak("policy", 1), speak("policy", 2), speak(None, None)] == [1, 0, 1, 1]
    steps.forget("policy")
    assert [speak(None, None), speak("policy", 2)] == [0, 1]
    monkeypatch.setattr(steps_module, "MAX_RECORDED", 1)
    assert [speak("other", 1), speak("other", 1), speak(None, None)] == [1, 0, 1]
    steps.clear()
    assert [speak(None, None), speak(None, None)] == [1, 0]


def test_room_grows_within_the_limit_and_is_kept_between_calls(make_model):
    network = exact_network(make_model())
    steps, _ = recording(network)

    def shape(rows: int, new_tokens: int, most: int = 100_000) -> tuple[int, int]:
        asked = [DecodeRow(ids, Sampling(0.0, 1.0, new_tokens), 0) for ids in prompts(rows, 10)]
        decode(network, asked, never, at_once=AtOnce(64, most), steps=steps)
        assert steps._room is not None
        return steps._room.slots.rows, steps._room.slots.columns

    assert shape(4, 20) == (4, 64)
    held = steps._room
    assert shape(2, 10) == (4, 64)
    assert steps._room is held, "what is large enough stays"
    assert shape(2, 100) == (4, 128), "larger in one way, as large in the other"
    assert shape(1, 200, most=500) == (1, 256), "both would be more than there may be"


def test_slots_that_have_to_move_are_recorded_anew(make_model):
    """Of a long conversation all but the end is known, and beside it a long prompt is new: what pads the short rest to
    the long prompt's length reaches beyond the longest answer."""
    network = exact_network(make_model())
    steps, recorder = recording(network)
    memory, short = Memory(Kept(1 << 26), "base"), Sampling(0.0, 1.0, 8)
    old, new = prompts(1, 5)[0] * 25, prompts(2, 5)[1][::-1] * 22
    decode(network, [DecodeRow(old, short, 0), DecodeRow((9, 8, 7), short, 0)], never, memory, steps=steps)
    assert steps._room is not None
    before, recorded = steps._room.slots.columns, recorder.recorded
    rows = [DecodeRow((*old, 7), short, 0), DecodeRow(new, short, 0)]
    assert decode(network, rows, never, memory, steps=steps) == decode(network, rows, never)
    assert steps._room.slots.columns > before, "else nothing moved"
    assert recorder.recorded == recorded + 1, "the same shape, somewhere else"


def test_one_decoding_has_the_room_and_others_go_on_plainly(make_model):
    """An answer that is streamed shares the model with other calls, between any two of its tokens."""
    network = exact_network(make_model())
    steps, recorder = recording(network)
    rows = [DecodeRow(ids, GREEDY, 0) for ids in prompts(3)]
    wanted = decode(network, rows, never)
    slow = Decoding(network, rows, never, steps=steps)
    for _ in range(5):
        slow.step()
    recorded = recorder.replayed
    assert decode(network, rows, never, steps=steps) == wanted
    assert recorder.replayed == recorded, "the room is not free"
    slow.step()
    assert recorder.replayed == recorded + 1
    steps.clear()
    while not slow.done():
        slow.step()
    assert recorder.replayed == recorded + 1, "its room is gone, its slots are still its own"
    assert slow.results() == wanted
    abandoned = Decoding(network, rows, never, steps=steps)
    abandoned.step()
    del abandoned
    assert decode(network, rows, never, steps=steps) == wanted
    assert recorder.replayed > recorded + 20, "nobody has the room any more"


def test_steps_that_are_recorded_never_look_at_what_is_in_a_tensor(make_model):
    """On the meta device a tensor has a shape and no numbers: to read one, or to take a shape from one, raises."""
    network = exact_network(make_model("Mistral"))
    steps, _ = recording(network)
    rows = [DecodeRow((*range(20, 60), *ids), GREEDY, 0) for ids in prompts(5)]
    decode(network, rows, never, steps=steps)
    room = steps._room
    assert room is not None
    assert room.beginning is not None
    network.model.to("meta")
    network._nothing = network._nothing.to("meta")
    room.slots._layers = [layer.to("meta") for layer in room.slots._layers]
    beginning = type(room.beginning)(
        [each.to("meta") for each in room.beginning.layers], room.beginning.length.to("meta")
    )
    nowhere = type(room)(room.slots, room.given_2R.to("meta"), room.logits_RV.to("meta"), beginning)
    with torch.inference_mode():
        steps._work(nowhere, 4, 64, 64)


on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@on_cuda
@pytest.mark.parametrize("kind", KINDS)
def test_on_cuda_steps_are_recorded_and_say_what_plain_ones_say(make_model, kind):
    model = AutoModelForCausalLM.from_pretrained(make_model(kind)).eval().cuda()
    network = Network(model if kind == "Gemma2" else model.double(), kind)
    steps = Steps(network, recorder(network.device))
    for shared in ((), tuple(range(20, 20 + 2 * MIN_SHARED + 3))):
        rows = [DecodeRow((*shared, *ids), GREEDY, 0) for ids in prompts(9)]
        wanted = decode(network, rows, never, at_once=AtOnce(rows=3))
        assert decode(network, rows, never, at_once=AtOnce(rows=3), steps=steps) == wanted
    assert steps.on
    assert steps._recorded


@pytest.mark.gpu
@on_cuda
def test_on_cuda_work_that_waits_for_the_device_is_refused_before_anything_is_recorded():
    record, there = recorder(torch.device("cuda:0")), torch.zeros(3, device="cuda:0")
    assert record is not None
    with pytest.raises(RuntimeError):
        record(lambda: there.add_(there.sum().item()))
    assert torch.rand(2, device="cuda:0").shape == (2,), "random numbers are as usable as before"
    replay = record(lambda: there.add_(1.0))
    before = there.clone()
    replay()
    assert torch.equal(there, before + 1)


def test_only_cuda_records():
    assert recorder(torch.device("cpu")) is None


def test_buckets_are_at_most_half_as_large_again_as_what_they_hold():
    assert [bucket(n, 8) for n in (0, 8, 9, 12, 13, 16, 17, 24, 25, 33)] == [8, 8, 12, 12, 16, 16, 24, 24, 32, 48]
    assert all(n <= bucket(n, 1) <= 1.5 * n for n in range(1, 5000))
