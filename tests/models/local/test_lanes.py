"""Passes in two lanes against the same passes in one: values, gradients, who gets them, what they leave."""

import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from cai.models.local import lanes, logprobs
from cai.models.local.lanes import Costs, both, parted
from cai.models.local.layout import TokenRow, families
from cai.models.local.logprobs import completion_logps
from cai.models.local.network import Network
from cai.models.local.scoring import completion_values, row_scores
from cai.models.local.spec import LoraSpec
from tests.models.local.test_packed import KINDS, ROUNDING, ROWS, WEIGHTS, load, measured, relative_error

EVEN = Costs(position=1.0, told=0.0, cell=0.0)


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "the lanes gave back what they took"
    torch.set_num_threads(before)


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """A number for each pass in two lanes; every pass is long enough for them."""
    passes: list[int] = []

    def counting(works, learnt):
        passes.append(len(works))
        return both(works, learnt)

    monkeypatch.setattr(lanes, "LEAST", 1)
    monkeypatch.setattr(logprobs, "both", counting)
    return passes


@pytest.mark.parametrize("kind", KINDS)
def test_two_lanes_have_the_values_and_gradients_of_one(make_model, counted, kind):
    network = load(make_model(kind))
    head_1D = torch.linspace(-1, 1, 64, dtype=torch.float64)[None].requires_grad_()

    def read(use_lanes: bool):
        def weighed(network: Network) -> torch.Tensor:
            weights_B = torch.tensor(WEIGHTS, dtype=torch.float64)
            values = completion_values(network, head_1D, ROWS, lanes=use_lanes)
            told_B = completion_logps(network, ROWS, lanes=use_lanes).sums() + values.values_BT.sum(1)
            return (told_B + 3 * row_scores(network, head_1D, ROWS, lanes=use_lanes)) @ weights_B

        return weighed

    head_1D.grad = None
    plain, to_head = measured(network, read(False)), head_1D.grad
    assert counted == []
    head_1D.grad = None
    ours = measured(network, read(True))
    assert counted == [2, 2, 2]
    for mine, own in zip([*ours, head_1D.grad], [*plain, to_head], strict=True):
        assert relative_error(mine, own) < ROUNDING


def test_an_untrained_policy_equals_its_reference_and_the_same_pass_itself_to_the_last_bit(open_bench, counted):
    trainee = open_bench("none", lora=LoraSpec(rank=4)).trainee(None, 1)
    found = [trainee.policy_logps(ROWS).sums() for _ in range(2)]
    assert torch.equal(found[0], trainee.reference_logps(ROWS).sums())
    gradients = [torch.autograd.grad(each.sum(), list(trainee.parameters().values())) for each in found]
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert counted == [2, 2, 2]


def test_what_only_one_thread_may_do_goes_in_one_lane(open_bench, counted):
    """Dropout draws from one generator; layers that are computed again switch the adapter on for themselves."""
    bench = open_bench("none", lora=LoraSpec(rank=4, dropout=0.3))
    trainee, scorer = bench.trainee(None, 1), bench.scoring_trainee(None, 2)
    for how in ({"dropout_seed": 5}, {"checkpointing": True}):
        trainee.policy_logps(ROWS, **how).sums().sum().backward()
        scorer.scores(ROWS, **how).sum().backward()
        scorer.values(ROWS, **how).values_BT.sum().backward()
    assert counted == []
    trainee.policy_logps(ROWS).sums().sum().backward()
    scorer.scores(ROWS).sum().backward()
    scorer.values(ROWS).values_BT.sum().backward()
    assert counted == [2, 2, 2]


def test_an_odd_number_of_threads_and_short_passes_go_in_one_lane(open_bench, counted, monkeypatch):
    trainee = open_bench("none", lora=LoraSpec(rank=4)).trainee(None, 1)
    torch.set_num_threads(1)
    trainee.policy_logps(ROWS)
    torch.set_num_threads(2)
    monkeypatch.setattr(lanes, "LEAST", 1e9)
    trainee.policy_logps(ROWS)
    assert counted == []


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        ({}, True),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, True),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, False),
    ],
)
def test_a_model_whose_angles_depend_on_the_pass_has_no_lanes(make_model, config, allowed):
    folder = make_model("Llama", **config)
    network = Network(AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False), str(folder))
    assert network.packs
    assert network.lanes == allowed


def test_weights_that_each_pass_unpacks_are_not_unpacked_twice_at_once(open_bench, monkeypatch):
    assert open_bench("nf4").network.lanes
    monkeypatch.setattr("cai.models.local.loading.keeps_dense_copies", lambda *_: False)
    assert not open_bench("nf4").network.lanes
    assert open_bench("none").network.lanes


def test_rows_with_one_prompt_stay_together_and_lanes_take_about_as_long(monkeypatch):
    monkeypatch.setattr(lanes, "LEAST", 1)
    rows = [TokenRow(tuple(range(k, k + 20 * (1 + k % 7))), tuple(range(5 + k % 3))) for k in range(12) for _ in "ab"]
    costs = Costs.by_shape(32_000, 256, 6)
    found = parted(rows, costs)
    assert sorted(found[0] + found[1]) == list(range(len(rows)))
    assert all(set(family) <= set(found[0]) or set(family) <= set(found[1]) for family in families(rows))
    times = [sum(costs.of([rows[i] for i in family]) for family in families(rows) if family[0] in lane)
             for lane in map(set, found)]  # fmt: skip
    assert max(times) < 1.1 * min(times)
    assert parted(rows[:2], EVEN) == [[0, 1]], "one prompt is one lane's"


def test_what_is_told_and_what_is_looked_at_takes_time():
    family = [TokenRow((1, 2, 3, 4), (5, 6)), TokenRow((1, 2, 3, 4), (7,))]
    assert EVEN.of(family) == 7
    assert Costs(position=1.0, told=10.0, cell=0.0).of(family) == 37
    assert Costs(position=1.0, told=0.0, cell=1.0).of(family) == 7 + 8 + 2 * (4 + 1) + 1 * 4.5


@pytest.mark.parametrize("number", [0, 1])
def test_an_error_in_either_lane_is_told_when_both_have_ended(number):
    ended = []

    def fails() -> torch.Tensor:
        raise ValueError("a lane broke")

    def works() -> torch.Tensor:
        time.sleep(0.2)
        ended.append(threading.current_thread().name)
        return torch.zeros(1)

    with pytest.raises(ValueError, match="a lane broke"), torch.no_grad():
        both([fails, works] if number == 0 else [works, fails], [])
    assert len(ended) == 1


def test_each_lane_has_half_of_the_threads_and_the_gradient_mode_of_who_asks():
    weight = torch.ones(3, requires_grad=True)
    seen = []

    def look() -> torch.Tensor:
        seen.append((threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()))
        return 2 * weight.sum(0, keepdim=True)

    with torch.no_grad():
        assert not any(each.requires_grad for each in both([look, look], [weight]))
    sum(both([look, look], [weight])).backward()
    assert torch.equal(weight.grad, torch.full((3,), 4.0))
    assert len({ident for ident, *_ in seen}) == 2
    assert sorted(each[1:] for each in seen) == [(1, False), (1, False), (1, True), (1, True)]


def test_what_one_lane_never_used_gets_the_gradient_of_the_other_and_what_none_used_gets_none():
    one, other, none = (torch.full((2,), k, requires_grad=True) for k in (1.0, 2.0, 3.0))
    outs = both([lambda: one * 5, lambda: one * other], [one, other, none])
    (outs[0].sum() + 2 * outs[1].sum()).backward()
    assert torch.equal(one.grad, torch.full((2,), 9.0)) and torch.equal(other.grad, torch.full((2,), 2.0))
    assert none.grad is None
