"""Twenty updates of each method beside what TRL computed for the same model, rows and settings (`bench/parity_peer.py`
made the reference): losses, gradient norms, reported rewards and final adapters."""

import json
from pathlib import Path

import pytest

from bench.parity import ADAPTER, COMPARED, GRAD_NORM, LOSS, METRIC, gap, open_model, peer, start, train
from bench.parity_case import GOLDEN, METHODS, STEPS, Trained, identity, write_all
from cai.models.local.workbench import Workbench

KEPT = json.loads((GOLDEN / "parity.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    write_all(folder)
    return folder


@pytest.fixture(scope="module")
def workbench(case: Path) -> Workbench:
    return open_model(case)


def test_weights_and_rows_are_those_that_the_peer_had(case: Path) -> None:
    assert identity(case) == KEPT["case"]


def test_the_reference_is_the_named_peers_and_complete() -> None:
    asked = (GOLDEN.parents[2] / "bench" / "peers.txt").read_text("utf-8")
    major, minor, *_ = KEPT["versions"]["trl"].split(".")
    assert f"trl=={major}.{minor}." in asked
    assert KEPT["methods"].keys() == METHODS.keys()
    assert {len(values) for steps in KEPT["methods"].values() for values in steps.values()} == {STEPS}


@pytest.mark.parametrize("name", COMPARED)
def test_a_training_is_the_peers_update_by_update(name: str, workbench: Workbench, case: Path, tmp_path: Path) -> None:
    found = gap(train(name, workbench, case, tmp_path), peer(name), start(name, case))
    assert found.loss <= LOSS
    assert found.grad_norm <= GRAD_NORM
    assert found.adapter <= ADAPTER
    assert {metric: apart for metric, apart in found.metrics.items() if apart > METRIC} == {}
    assert found.met


def test_another_loss_or_one_wrong_number_misses_the_bars(case: Path) -> None:
    """Even the two methods that are most alike miss every bar, and one loss of twenty that is off by 2e-5 is seen."""
    robust, dpo, begun = peer("robust"), peer("dpo"), start("dpo", case)
    found = gap(robust, dpo, begun)
    assert found.loss > 100 * LOSS
    assert found.grad_norm > 100 * GRAD_NORM
    assert found.adapter > ADAPTER
    assert gap(dpo, dpo, begun).met
    losses = dpo.steps["loss"]
    shifted = Trained(dpo.steps | {"loss": [*losses[:-1], (losses[-1] or 0.0) + 2 * LOSS]}, dpo.adapter)
    assert not gap(shifted, dpo, begun).met
