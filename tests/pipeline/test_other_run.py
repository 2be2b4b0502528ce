"""Going on from what another run made: `from: quickstart/sft`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.pipeline.configs import PreferConfig
from cai.pipeline.runner import run_pipeline
from cai.pipeline.sources import sources_of
from cai.pipeline.spec import Pipeline

Small = Callable[..., Pipeline]


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs" / "quickstart")
    return tmp_path / "runs"


def weights(run: Path, stage: str) -> list[bytes]:
    return [path.read_bytes() for path in run.glob(f"stages/{stage}-*/adapter/adapter_model.safetensors")]


def test_training_from_another_run_is_training_from_the_same_weights(runs: Path, copied: Path, small: Small) -> None:
    [own] = weights(copied, "05-dpo")
    events = list(run_pipeline(small("stages.4.dpo.from=quickstart/sft"), copied))
    skipped = [event.stage for event in events if event.kind == "stage_skipped"]
    # Equal adapters are the same to what comes after.
    assert skipped == ["01-revise", "02-prefer", "03-sft", "04-prefer", "06-evaluate"]
    assert weights(copied, "05-dpo") == [own, own]


def test_sampling_from_another_run_names_it_in_the_lineage(runs: Path, copied: Path, small: Small) -> None:
    list(run_pipeline(small("stages.3.prefer.from=quickstart/03-sft"), copied))
    manifests = [json.loads(path.read_text()) for path in copied.glob("stages/04-prefer-*/manifest.json")]
    names = [set(manifest["facts"]["models"].values()) for manifest in manifests]
    assert sorted(names, key=sorted) == [{"base", "03-sft"}, {"base", "quickstart/03-sft"}]


def test_a_run_that_is_not_there_is_refused_by_its_line(runs: Path, small: Small) -> None:
    with pytest.raises(InputError, match=r"there is no such run, got quickstrat/sft; name what another run made"):
        small("stages.4.dpo.from=quickstrat/sft")
    with pytest.raises(InputError, match=r"has no such training stage, got sfft; did you mean 'sft'"):
        small("stages.4.dpo.from=quickstart/sfft")


@pytest.mark.parametrize("change", ["model.clock=2027-01-01", "model.precision=bf16"])
def test_what_was_trained_on_another_base_is_refused_before_anything_is_written(
    runs: Path, small: Small, tmp_path: Path, change: str
) -> None:
    pipeline = small("stages.4.dpo.from=quickstart/sft", change)
    with pytest.raises(InputError, match=r"quickstart/sft: was trained on another base model, .*; give both runs"):
        next(run_pipeline(pipeline, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_what_another_run_made_may_sample_for_a_remote_judge() -> None:
    config = PreferConfig.model_validate({"pairs": "samples", "from": "quickstart/sft", "judge": "teacher"})
    sources = sources_of(config, [], ["teacher"])
    assert (sources.start_run, sources.start, sources.remotes) == ("quickstart/sft", None, {"judge": "teacher"})
    assert sources.local
