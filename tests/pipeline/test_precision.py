"""The precision of a run: a part of what the run is where it is asked for, and no part where it is not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.manifest import read_manifest, write_manifest
from cai.models.local.digests import weights_digest
from cai.models.local.spec import ModelSpec, Precision
from cai.models.tiny.weights import FOLDER
from cai.pipeline.alone import order_of
from cai.pipeline.desk import Desk
from cai.pipeline.export import export_model
from cai.pipeline.final import find_final
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline
from cai.pipeline.trained import read_training
from cai.records import digest
from tests.pipeline.trainings import asked, never, trained

Small = Callable[..., Pipeline]
STAGES = ["01-revise", "02-prefer", "03-sft", "04-prefer", "05-dpo", "06-evaluate"]


def fingerprint(spec: ModelSpec) -> str:
    return Desk(spec, {}, Path(), never).fingerprint()


def without_precision(plain: object) -> object:
    """As it was written before there was a precision."""
    if isinstance(plain, dict):
        return {key: without_precision(value) for key, value in plain.items() if key != "precision"}
    return plain


def test_a_model_of_which_no_precision_is_said_has_the_fingerprint_it_had_before_there_was_one() -> None:
    weights = weights_digest(FOLDER)
    before = digest([weights, None, "nf4", None, "2026-01-01"])
    assert fingerprint(ModelSpec("tiny")) == fingerprint(ModelSpec("tiny", precision="auto")) == before
    precisions: tuple[Precision, ...] = ("auto", "fp32", "bf16")
    assert len({fingerprint(ModelSpec("tiny", precision=precision)) for precision in precisions}) == 3


def test_a_run_from_before_there_was_a_precision_is_done_and_found(copied: Path, small: Small) -> None:
    told = (copied / "run.yaml").read_text()
    (copied / "run.yaml").write_text(told.replace("    precision: auto\n", ""))
    assert "precision" in told and "precision" not in (copied / "run.yaml").read_text()
    found = find_final(str(copied))
    assert found is not None and found.spec.precision == "auto"
    skipped = [event.stage for event in run_pipeline(small(), copied) if event.kind == "stage_skipped"]
    assert skipped == STAGES


def test_a_run_in_another_precision_is_another_run_of_which_nothing_is_reused(copied: Path, small: Small) -> None:
    events = list(run_pipeline(small("model.precision=bf16"), copied))
    assert events[-1].kind == "run_finished"
    assert [event.stage for event in events if event.kind == "stage_skipped"] == []
    for stage in STAGES:
        manifests = [json.loads(path.read_text()) for path in copied.glob(f"stages/{stage}-*/manifest.json")]
        assert sorted(each["facts"]["machine"]["dtype"] for each in manifests) == ["bfloat16", "float32"]
    found = find_final(str(copied))
    assert found is not None and found.spec.precision == "bf16"


def test_an_export_is_read_again_in_the_precision_of_its_run(finished: Path, tmp_path: Path) -> None:
    final = find_final(str(finished))
    assert final is not None
    told = {}
    for precision, tolerance in (("fp32", 1e-3), ("bf16", 5e-2)):
        run = replace(final, spec=replace(final.spec, precision=precision))
        told[precision] = export_model(run, "adapter", tmp_path / precision).exported
        assert told[precision].tuned.relative_difference <= told[precision].tolerance == tolerance
        wanted = {"fp32": "float32", "bf16": "bfloat16"}[precision]
        assert f"DTYPE = torch.{wanted}\n" in (tmp_path / precision / "README.md").read_text()
    assert told["fp32"].tuned.relative_difference < 1e-5 < told["bf16"].tuned.relative_difference


def test_a_training_alone_is_told_its_precision_and_whoever_goes_on_from_it_takes_that(tmp_path: Path) -> None:
    trained(asked("sft", tmp_path / "sft", precision="bf16"))
    manifest = json.loads((tmp_path / "sft" / "manifest.json").read_text())
    assert manifest["facts"]["machine"]["dtype"] == "bfloat16"
    assert "DTYPE = torch.bfloat16\n" in (tmp_path / "sft" / "adapter" / "README.md").read_text()
    for model in (None, "tiny"):
        order = order_of(asked("dpo", tmp_path / "dpo", model=model, start=str(tmp_path / "sft")))
        assert order.spec.precision == "bf16"
    trained(asked("sft", tmp_path / "again"))
    with pytest.raises(InputError, match=r"belongs to another training \(.*precision not set there, bf16 here"):
        trained(asked("sft", tmp_path / "again", precision="bf16"))


def test_a_training_from_before_there_was_a_precision_is_the_same_training(tmp_path: Path) -> None:
    trained(asked("sft", tmp_path / "sft"))
    plain = json.loads((tmp_path / "sft" / "training.json").read_text())
    assert plain["spec"]["precision"] == "auto"
    (tmp_path / "sft" / "training.json").write_text(json.dumps(without_precision(plain)))
    done = read_manifest(tmp_path / "sft")
    assert done is not None
    write_manifest(tmp_path / "sft", done.stage, done.version, done.digest, done.inputs, done.counts, done.facts)
    events = trained(asked("sft", tmp_path / "sft"))
    assert [event.kind for event in events] == ["run_started", "stage_skipped", "run_finished"]
    assert read_training(tmp_path / "sft").spec.precision == "auto"
