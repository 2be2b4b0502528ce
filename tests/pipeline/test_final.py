"""Models of runs, found by name: run, stage, folder; and what is said where a name is wrong."""

import shutil
from pathlib import Path

import pytest

from cai.errors import InputError, MissingModel
from cai.pipeline.final import final_model, find_final, refuse_misspelt


@pytest.fixture
def runs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `runs/quickstart`, which is the finished run of the small pipeline."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs" / "quickstart")
    return tmp_path / "runs"


def stage(text: str, wanted: str = "") -> str:
    found = find_final(text, wanted)
    assert found is not None, text
    assert found.adapter.is_dir()
    return found.adapter.parent.name.rpartition("-")[0]


def test_a_run_is_found_by_its_name_its_folder_and_its_full_path(runs: Path) -> None:
    for text in ("quickstart", "runs/quickstart", "runs/quickstart/", "./runs/quickstart", str(runs / "quickstart")):
        assert stage(text) == "05-dpo"


def test_a_stage_stands_behind_a_slash_by_kind_or_by_number_and_kind(runs: Path) -> None:
    for text in ("quickstart/sft", "quickstart/03-sft", "runs/quickstart/sft", str(runs / "quickstart" / "sft")):
        assert stage(text) == "03-sft"
    assert stage("quickstart/dpo") == "05-dpo"
    assert stage("quickstart", "sft") == stage("quickstart/sft", "sft") == "03-sft"
    with pytest.raises(InputError, match="names the stage 'sft', and another one was asked for, got dpo"):
        find_final("quickstart/sft", "dpo")


def test_what_is_no_run_is_left_to_others(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for text in ("tiny", "folder", "org/name", "runs", "elsewhere/runs/quickstart", "", "/"):
        assert find_final(text) is None, text


def test_a_model_folder_that_is_there_goes_before_a_run_and_its_stages(runs: Path, tmp_path: Path) -> None:
    for name in ("quickstart", "quickstart/sft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        assert find_final(name) is None
    assert stage("runs/quickstart/sft") == "03-sft"


def test_an_unknown_stage_is_refused_with_those_there_are(runs: Path) -> None:
    known = "its training stages are sft, 03-sft, dpo, 05-dpo"
    with pytest.raises(InputError, match=rf"has no such training stage, got sfft; did you mean 'sft'\? {known}"):
        find_final("quickstart/sfft")
    with pytest.raises(InputError, match=f"has no such training stage, got evaluate; {known}"):
        find_final("quickstart/evaluate")


def test_a_stage_that_is_not_done_is_refused(runs: Path) -> None:
    [folder] = (runs / "quickstart" / "stages").glob("05-dpo-*")
    (folder / "manifest.json").unlink()
    assert stage("quickstart/sft") == "03-sft"
    with pytest.raises(InputError, match=r"stage 05-dpo has trained no model yet: it is .*; let it finish"):
        find_final("quickstart")


def test_a_misspelt_run_is_told_from_a_hub_id(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingModel, match=r"quikstart: is no run, and no folder; did you mean 'quickstart'\?"):
        refuse_misspelt("quikstart")
    with pytest.raises(MissingModel, match=r"did you mean 'quickstart/sft'\?"):
        refuse_misspelt("quickstrat/sft")
    (tmp_path / "quikstart").mkdir()
    for text in ("quikstart", "meta/llama", "tiny", "org/quickstart"):
        refuse_misspelt(text)


def test_the_base_is_found_where_the_run_found_it(
    runs: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the adapter nor the pipeline has to name a path: the run noted it."""
    noted = runs / "quickstart" / "run.yaml"
    assert f"base_folder: {random_model.resolve()}\n" in noted.read_text()
    noted.write_text(noted.read_text().replace(f"base: {random_model}", "base: somewhere/else"))
    monkeypatch.chdir(runs)
    assert final_model(Path("quickstart")).spec.base == str(random_model.resolve())


def test_a_base_that_is_gone_is_told_by_its_place(runs: Path, random_model: Path) -> None:
    noted = runs / "quickstart" / "run.yaml"
    noted.write_text(noted.read_text().replace(str(random_model), "/nowhere/model"))
    with pytest.raises(MissingModel, match="the run's base model is gone, got /nowhere/model; put it back"):
        final_model(runs / "quickstart")


def test_no_adapter_of_a_run_names_a_path_of_this_machine(finished: Path, random_model: Path) -> None:
    configs = list(finished.glob("stages/*/adapter/adapter_config.json"))
    assert len(configs) == 2
    for path in configs:
        assert str(random_model.parent) not in path.read_text()
        assert f'"base_model_name_or_path": "{random_model.name}"' in path.read_text()
