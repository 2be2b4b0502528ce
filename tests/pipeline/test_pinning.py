"""A branch of a hub model is looked up once; the run notes the commit, and takes it again when it goes on."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cai.models.local import finding
from cai.models.local.finding import Found
from cai.models.local.spec import ModelSpec
from cai.pipeline.final import _spec
from cai.pipeline.logbook import Logbook, resolved
from cai.pipeline.pinning import pinned
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.strict_yaml import read_yaml

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def pipeline() -> Pipeline:
    path = ROOT / "pipelines" / "quickstart.yaml"
    found = load_pipeline(path, ["model.base=org/model", "model.revision=main"])
    assert found.model.revision == "main"
    return found


def stands_for(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    monkeypatch.setattr(finding, "find_model", lambda base, revision: Found(base, Path(), commit))


def test_a_branch_becomes_the_commit_it_stands_for(pipeline: Pipeline, tmp_path: Path, monkeypatch) -> None:
    stands_for(monkeypatch, FIRST)
    assert pinned(pipeline, tmp_path) == replace(pipeline.model, revision=FIRST)


def test_a_run_that_goes_on_takes_the_same_commit_when_the_branch_has_moved(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_for(monkeypatch, FIRST)
    Logbook(pipeline, tmp_path, pinned(pipeline, tmp_path).revision).__exit__(None, None, None)
    stands_for(monkeypatch, SECOND)
    assert pinned(pipeline, tmp_path).revision == FIRST
    assert pinned(pipeline, tmp_path / "another").revision == SECOND
    other = load_pipeline(pipeline.path, ["model.base=org/model", "model.revision=v2"])
    assert pinned(other, tmp_path).revision == SECOND, "another branch is looked up anew"


def test_a_folder_whose_earlier_run_had_no_model_of_its_own_tells_no_commit(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_for(monkeypatch, FIRST)
    (tmp_path / "run.yaml").write_text("pipeline: {model: null}\ncommit: null\n")
    assert pinned(pipeline, tmp_path).revision == FIRST


def test_whoever_talks_to_the_result_takes_that_commit_too(pipeline: Pipeline, tmp_path: Path) -> None:
    Logbook(pipeline, tmp_path, FIRST).__exit__(None, None, None)
    assert _spec(read_yaml(tmp_path / "run.yaml"), tmp_path).revision == FIRST


def test_a_commit_and_a_local_model_stay_what_they_are(pipeline: Pipeline, tmp_path: Path, monkeypatch) -> None:
    stands_for(monkeypatch, SECOND)
    exact = load_pipeline(pipeline.path, ["model.base=org/model", f"model.revision={FIRST}"])
    assert pinned(exact, tmp_path).revision == FIRST
    embedded = load_pipeline(pipeline.path)
    assert pinned(embedded, tmp_path) == ModelSpec("tiny", lora=embedded.model.lora)
    assert "commit" not in resolved(embedded)


def test_a_model_that_is_not_there_is_refused_before_torch_is_loaded(pipeline: Pipeline, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cai.errors import MissingModel\n"
        "from cai.pipeline.pinning import pinned; from cai.pipeline.spec import load_pipeline\n"
        "try: pinned(load_pipeline(Path(sys.argv[1]), ['model.base=./missing']), Path(sys.argv[2]))\n"
        "except MissingModel: sys.exit('torch' in sys.modules)\n"
        "sys.exit(3)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(pipeline.path), str(tmp_path)], check=False)
    assert done.returncode == 0
