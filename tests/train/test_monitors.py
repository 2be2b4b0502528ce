"""Alarms from curves made by hand: one that raises each alarm, a near one that does not, and real trainings."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.models.local.roles import Trainee
from cai.records import canonical
from cai.train import alarm_answers
from cai.train.monitors import MONITORS, QUIET, Alarm, MonitorSettings, Watch, watch

NewTrainee = Callable[..., Trainee]
Value = float | Callable[[int], float]
Rows = list[dict[str, float]]


def rows(count: int, curves: Mapping[str, Value]) -> Rows:
    """Updates 1 to `count`: a constant, or a function of the update's number; NaN stands for a metric not measured."""
    made = []
    for n in range(1, count + 1):
        values = {name: value(n) if callable(value) else value for name, value in curves.items()}
        made.append({name: value for name, value in values.items() if not math.isnan(value)})
    return made


def kinds(window: Rows, *ignored: str) -> set[str]:
    return {alarm.kind for alarm in watch(window, MonitorSettings(ignore=ignored))}


def seen(window: Rows) -> list[Alarm]:
    monitor = Watch()
    return [alarm for metrics in window for alarm in monitor.see(metrics)]


def then(before: float, after: float, since: int) -> Callable[[int], float]:
    """One value, and from the update `since` on another."""
    return lambda n: after if n >= since else before


def every(step: int, value: Value) -> Callable[[int], float]:
    """Measured at each `step`th update only, as a probe is."""
    return lambda n: math.nan if n % step else value(n) if callable(value) else value


def never() -> bool:
    return False


def in_turn(*values: float) -> Callable[[int], float]:
    return lambda n: values[n % len(values)]


RATE: dict[str, Value] = {"learning_rate": lambda n: 1e-4 * min(n, 4)}
"""A warm-up of four updates; the fifth is the first behind it."""
PAIRS: dict[str, Value] = {
    "loss": 0.65,
    "grad_norm": 0.2,
    "rewards/chosen": 0.05,
    "rewards/rejected": -0.05,
    "rewards/margins": 0.1,
    "rewards/accuracies": 0.9,
    "logps/chosen": -20.0,
    "logps/rejected": -22.0,
    **RATE,
}
FINE: dict[str, Value] = {"loss": 1.0, "grad_norm": 0.2, **RATE}
POLICY: dict[str, Value] = {"loss": 0.01, "grad_norm": 0.2, "reward": 0.5, "reward_std": 0.2, **RATE}
COINS: dict[str, Value] = {
    "loss": 0.6931,
    # Batches of eight pairs, four right on average; margins that swing about zero.
    "rewards/accuracies": in_turn(0.375, 0.5, 0.625, 0.5),
    "rewards/margins": in_turn(0.01, -0.01),
}
FALLS: dict[str, Value] = {
    "logps/chosen": then(-20.0, -40.0, 11),
    "rewards/chosen": then(0.0, -2.0, 11),
    "rewards/margins": 1.0,
}
TWICE: dict[str, Value] = {
    # Each round is learnt from twice, and only the second pass can clip anything.
    "ratio/first": every(2, 1.0),
    "clip_ratio": in_turn(0.0, 0.6),
}
SINGLES: dict[str, Value] = {name: value for name, value in PAIRS.items() if name != "rewards/accuracies"} | {"kl": 0.0}
"""What kto tells: no accuracy, and a drift that is zero as often as not."""
WIDER: dict[str, Value] = {"rewards/margins": lambda n: n / 50}
FITTED: dict[str, Value] = {"loss": lambda n: 1 - n / 100}

CASES: dict[str, tuple[Rows, Rows]] = {
    # What raises the alarm, and what is near it and does not.
    "not-finite": (rows(1, {**FINE, "kl": math.inf}), rows(1, {**FINE, "kl": 1e30})),
    "loss-explosion": (rows(20, FINE | {"loss": then(1, 1.6, 13)}), rows(20, FINE | {"loss": then(1, 1.4, 13)})),
    "gradient-explosion": (
        rows(20, FINE | {"grad_norm": then(0.2, 2.1, 13)}),
        rows(20, FINE | {"grad_norm": then(0.2, 1.9, 13)}),
    ),
    "chosen-falls": (rows(20, PAIRS | FALLS), rows(20, PAIRS | FALLS | {"logps/chosen": then(-20, -29, 11)})),
    # With a spread of 0.09 over 30 batches the mean is known to 0.02: 0.50 + 1.645 · 0.02 < 0.60.
    "labels-teach-nothing": (
        rows(34, PAIRS | COINS),
        rows(34, PAIRS | COINS | {"rewards/accuracies": in_turn(0.5, 0.625, 0.75, 0.625)}),
    ),
    "labels-turned-round": (
        rows(20, PAIRS | {"probe/accuracies": every(10, 0.2)}),
        rows(20, PAIRS | {"probe/accuracies": every(10, 0.4)}),
    ),
    "nothing-moves": (rows(8, FINE | {"grad_norm": 0.0}), rows(8, FINE | {"grad_norm": then(0, 1e-9, 8)})),
    "constant-reward": (
        rows(8, POLICY | {"frac_reward_zero_std": 1.0}),
        rows(8, POLICY | {"frac_reward_zero_std": then(1.0, 0.9, 8)}),
    ),
    # Ten nats are half a nat for each of twenty tokens.
    "kl-runaway": (
        rows(8, POLICY | {"kl": 10.5, "completions/mean_length": 20}),
        rows(8, POLICY | {"kl": 10.5, "completions/mean_length": 22}),
    ),
    "first-ratio": (rows(8, POLICY | {"ratio/first": 0.97}), rows(8, POLICY | {"ratio/first": 0.99})),
    "clipping": (rows(8, POLICY | {"clip_ratio": 0.6}), rows(8, POLICY | {"clip_ratio": 0.4})),
    "longer": (
        rows(16, POLICY | {"completions/mean_length": then(20, 40, 9)}),
        rows(16, POLICY | {"completions/mean_length": then(20, 38, 9)}),
    ),
    "shorter": (
        rows(16, POLICY | {"completions/mean_length": then(20, 8, 9)}),
        rows(16, POLICY | {"completions/mean_length": then(20, 9, 9)}),
    ),
    "held-out-falls": (
        rows(50, POLICY | {"reward": lambda n: n / 50, "probe/heldout": every(10, then(0.8, 0.55, 30))}),
        rows(50, POLICY | {"reward": lambda n: n / 50, "probe/heldout": every(10, then(0.8, 0.65, 30))}),
    ),
    "collapse": (
        rows(16, POLICY | {"entropy": then(0.5, 0.04, 9)}),
        rows(16, POLICY | {"entropy": then(0.5, 0.06, 9)}),
    ),
    "over-refusal": (
        rows(30, POLICY | {"probe/over_refusal": every(10, then(0.1, 0.3, 20))}),
        rows(30, POLICY | {"probe/over_refusal": every(10, then(0.1, 0.3, 30))}),
    ),
}


def test_every_kind_has_a_case_and_advice() -> None:
    assert set(CASES) == set(MONITORS)
    assert all(monitor.advice.endswith(".") for monitor in MONITORS.values())


@pytest.mark.parametrize("kind", MONITORS)
def test_each_alarm_is_raised_by_its_failure_and_not_by_what_is_near_it(kind: str) -> None:
    alarming, near = CASES[kind]
    assert kinds(alarming) == {kind}
    assert kinds(near) == set()


@pytest.mark.parametrize(
    ("kind", "window"),
    [
        ("loss-explosion", rows(9, FINE | {"loss": then(1.0, 3.1, 2)})),
        ("nothing-moves", rows(12, PAIRS | {"rewards/margins": 0.0})),
        ("nothing-moves", rows(12, POLICY | {"kl": 0.0})),
        ("constant-reward", rows(8, POLICY | {"reward_std": 0.0})),
        ("clipping", rows(8, POLICY | {"ratio": 1.6})),
        ("kl-runaway", rows(8, POLICY | {"kl": 51.0})),
        ("longer", rows(16, POLICY | {"completions/clipped_ratio": then(0.1, 0.5, 9)})),
        ("longer", rows(30, PAIRS | {"probe/words": every(10, then(20, 40, 20))})),
        ("longer", rows(30, PAIRS | {"probe/brevity": every(10, then(1.0, 0.7, 20))})),
        ("longer", rows(20, PAIRS | {"probe/brevity": every(10, 0.4)})),
        ("collapse", rows(16, POLICY | {"completions/repetition": then(0.05, 0.3, 9)})),
        ("collapse", rows(16, POLICY | {"completions/distinct": then(0.8, 0.2, 9)})),
        ("collapse", rows(16, POLICY | {"completions/shared": then(0.3, 0.6, 9)})),
        ("clipping", rows(16, POLICY | TWICE)),
        ("labels-teach-nothing", rows(44, SINGLES | {"rewards/margins": in_turn(0.01, -0.01)})),
        ("labels-turned-round", rows(20, SINGLES | {"probe/accuracies": every(10, 0.2)})),
        ("over-refusal", rows(60, POLICY | {"probe/refusal_benign": every(60, 0.5)})),
        ("held-out-falls", rows(50, PAIRS | WIDER | {"probe/helpfulness": every(10, then(1.0, 0.7, 30))})),
        ("held-out-falls", rows(50, FINE | FITTED | {"probe/harmful_compliance": every(10, then(0.1, 0.4, 30))})),
    ],
)  # fmt: skip
def test_other_metrics_show_the_same_failure(kind: str, window: Rows) -> None:
    assert kinds(window) == {kind}


@pytest.mark.parametrize(
    "window",
    [
        rows(40, FINE | {"loss": in_turn(9.0, 1.0, 1.0, 1.0), "grad_norm": in_turn(9.0, 0.2, 0.2, 0.2)}),
        rows(40, FINE | {"loss": in_turn(0.3, 3.0, 0.6, 1.5, 0.4, 2.5)}),
        rows(40, PAIRS | FALLS | {"rewards/chosen": -0.09}),
        rows(40, PAIRS | FALLS | {"rewards/margins": 3.0}),
        rows(40, PAIRS | FALLS | {"logps/chosen": then(-300.0, -400.0, 11)}),
        rows(16, PAIRS | COINS | {"learning_rate": lambda n: 1e-6 * n}),
        rows(34, PAIRS | COINS | {"rewards/margins": in_turn(0.02, 0.0)}),
        rows(33, PAIRS | COINS),
        rows(11, PAIRS | {"rewards/margins": 0.0}),
        rows(40, PAIRS | {"loss": 0.0, "grad_norm": 0.0, "rewards/margins": 20.0}),
        rows(7, POLICY | {"reward_std": 0.0}),
        rows(40, POLICY | {"reward": 0.5, "probe/heldout": every(10, then(0.8, 0.6, 20))}),
        rows(40, POLICY | {"entropy": then(0.015, 0.0, 9)}),
        rows(40, POLICY | {"completions/distinct": then(0.8, 0.3, 9), "completions/shared": then(0.3, 0.5, 9)}),
        rows(40, POLICY | {"completions/shared": then(0.5, 0.7, 9)}),
        rows(40, POLICY | {"grad_norm": then(0.05, 2.0, 13)}),
        rows(40, SINGLES),
        rows(36, SINGLES | {"rewards/margins": in_turn(0.01, -0.01)}),
        rows(10, POLICY | {"probe/over_refusal": every(10, 0.4)}),
        rows(40, POLICY | {"probe/brevity": every(10, 0.6)}),
    ],
    ids=[
        "every fourth batch is bad",
        "batches of one row differ tenfold",
        "the batches with long answers came last",
        "chosen answers lose less than they gain on the rejected ones",
        "long answers lose a third",
        "labels are not judged during the warm-up",
        "margins rise although few pairs are won yet",
        "a head that was drawn has had few updates",
        "a policy has not moved in seven updates",
        "a hinge loss has nothing left to push",
        "seven batches of equal rewards",
        "the held-out score falls, and the reward does not rise",
        "a model that was certain from the start",
        "a policy that learns to refuse says fewer things",
        "prompts that want the same opening",
        "the first rounds' rewards hardly differed",
        "single answers that nobody drifts towards",
        "margins of few batches of single answers",
        "a model that always refused",
        "a model that always padded a few of its answers",
    ],
)  # fmt: skip
def test_what_happens_in_healthy_trainings_raises_nothing(window: Rows) -> None:
    assert seen(window) == []


def test_evidence_says_the_values_and_the_updates() -> None:
    """The median of the losses 1, 1, 1 is 1; eight of 2 come after it from update 13 on, and five make their median."""
    window = rows(20, FINE | {"loss": then(1, 2, 13)})
    [alarm] = watch(window)
    assert alarm == Alarm(
        "loss-explosion", 20, "loss 1 over updates 1–3, 2 over updates 13–20", MONITORS["loss-explosion"].advice, 12
    )
    assert [alarm.step for alarm in seen(window)] == [19]


def test_how_fast_chosen_answers_fall_is_told() -> None:
    """From -20 to -40 between updates 1 and 20: 20 nats in 19 updates."""
    [alarm] = watch(rows(20, PAIRS | FALLS))
    assert "1.1 nats lost per update; logps/rejected -22 over updates 1–3" in alarm.evidence


def test_a_ruined_policy_is_not_blamed_on_its_labels() -> None:
    assert kinds(rows(40, PAIRS | COINS | FALLS | {"rewards/margins": in_turn(0.01, -0.01)})) == {"chosen-falls"}


def test_equal_rewards_are_not_taken_for_a_frozen_adapter() -> None:
    still = rows(40, POLICY | {"grad_norm": 0.0, "kl": 0.0, "reward_std": 0.0})
    assert [alarm.kind for alarm in seen(still)] == ["constant-reward"]


def test_an_answer_that_was_cut_does_not_make_a_constant_reward_look_alive() -> None:
    """An answer that runs into the limit gets another reward, whatever the reward function says."""

    def policy(cut: int, apart: int) -> Rows:
        """Eight rounds, of which the first ones had a cut answer, and the first ones had rewards that differ."""
        return rows(
            8,
            POLICY
            | {
                "completions/clipped_ratio": lambda n: 0.1 if n <= cut else 0.0,
                "reward_std": lambda n: 0.2 if n <= apart else 0.0,
            },
        )

    assert kinds(policy(cut=2, apart=2)) == {"constant-reward"}
    assert kinds(policy(cut=8, apart=0)) == {"constant-reward"}
    assert kinds(policy(cut=2, apart=3)) == kinds(policy(cut=5, apart=5)) == set()


def test_rewards_that_were_equal_so_far_explain_that_no_gradient_arrives() -> None:
    """Rewards are told at every second update: the eighth of them at the sixteenth, the fourth at the eighth."""
    equal = rows(40, POLICY | {"grad_norm": 0.0, "reward_std": every(2, 0.0)})
    assert [(alarm.kind, alarm.step) for alarm in seen(equal)] == [("constant-reward", 16)]
    apart = rows(40, POLICY | {"grad_norm": 0.0, "reward_std": every(2, 0.2)})
    assert [(alarm.kind, alarm.step) for alarm in seen(apart)] == [("nothing-moves", 8)]


def test_an_alarm_is_told_once_and_again_after_it_had_been_away() -> None:
    """A median of eight turns with the fifth value: on at 30, off at 49, on at 75."""
    clip = then(0.1, 0.9, 26)
    window = rows(90, POLICY | {"clip_ratio": lambda n: 0.1 if 46 <= n < 71 else clip(n)})
    assert [(alarm.kind, alarm.step) for alarm in seen(window)] == [("clipping", 30), ("clipping", 75)]
    hovering = rows(90, POLICY | {"clip_ratio": lambda n: 0.1 if n % QUIET < 10 else 0.9})
    assert len(seen(hovering)) == 1


@pytest.mark.parametrize("cut", [1, 13, 19, 20, 40])
def test_a_training_that_goes_on_tells_what_it_would_have_told(cut: int) -> None:
    window = rows(60, POLICY | {"loss": 0.1, "clip_ratio": then(0.1, 0.9, 15), "kl": then(1, 99, 30), "entropy": 0.5})
    whole = Watch()
    expected = [whole.see(metrics) for metrics in window]
    assert sum(map(len, expected)) == 2
    lines = [canonical({"step": n, **metrics}) for n, metrics in enumerate(window, 1)]
    resumed = Watch()
    for line in lines[:cut]:
        resumed.see(json.loads(line))
    assert [resumed.see(metrics) for metrics in window[cut:]] == expected[cut:]
    assert watch([json.loads(line) for line in lines]) == watch(window)


NAMES = sorted({name for window in CASES.values() for half in window for row in half for name in row} | {"kl", "ratio"})
VALUES = st.one_of(st.floats(-1e30, 1e30), st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf]))


@given(st.lists(st.sampled_from(NAMES), unique=True), st.lists(VALUES, min_size=1, max_size=7), st.integers(1, 60))
def test_any_metrics_in_any_order_are_read_without_an_error(names: list[str], values: list[float], count: int) -> None:
    made = [{name: values[(n * (i + 1)) % len(values)] for i, name in enumerate(names)} for n in range(count)]
    assert {alarm.kind for alarm in seen(made)} >= kinds(made)


def test_expected_alarms_can_be_left_out() -> None:
    window, _ = CASES["longer"]
    assert kinds(window, "longer") == set()


def test_watching_loads_no_torch() -> None:
    code = "import sys, cai.train.monitors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_guide_has_a_row_for_every_alarm_and_every_metric_of_probes() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "monitors.md").read_text("utf-8")
    rows_of_guide = [line.split("|")[1] for line in guide.splitlines() if line.startswith("| `")]
    assert [kind for kind in MONITORS if f" `{kind}` " not in rows_of_guide] == []
    told = {name for row in rows_of_guide for name in row.split("`")}
    probed = {*alarm_answers.LENGTHS, *alarm_answers.REFUSALS}
    probed |= {*alarm_answers.HIGHER_IS_BETTER, *alarm_answers.LOWER_IS_BETTER}
    assert probed <= told


def test_a_loss_without_a_reference_passes_through_a_half_and_is_no_alarm() -> None:
    """Its margins begin where the base stands, far below zero: on average they are nothing, and they rise."""
    climb = PAIRS | {
        "rewards/accuracies": lambda i: 0.1 + 0.02 * i,
        "rewards/margins": lambda i: -2.0 + 0.1 * i,
    }
    assert "labels-teach-nothing" not in {alarm.kind for alarm in watch(rows(36, climb))}
