"""The models that a run made, found by the run's name: its base, and the adapter of one of its training stages.

    quickstart   runs/quickstart   quickstart/sft   runs/quickstart/03-sft   trained/dpo-pairs

The last one is the folder of a training alone, which counts as a run of one stage. For whoever wants to talk to a model
or to take it along. Loading it is the workbench's business.
"""

import difflib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from cai.errors import InputError, MissingModel
from cai.manifest import read_manifest
from cai.models.local.spec import ModelSpec
from cai.pipeline.configs import PipelineSpec
from cai.pipeline.trained import base_of, is_trained, read_training
from cai.pipeline.training_configs import TRAINING
from cai.store.run_folder import ADAPTER, RUN, RUNS, STAGES, RunState, StageState, read_run
from cai.strict_yaml import Document, read_yaml, validated


@dataclass(frozen=True, slots=True)
class FinalModel:
    spec: ModelSpec
    adapter: Path
    run: RunState
    stage: StageState
    """The one that trained the adapter."""

    @property
    def name(self) -> str:
        if not self.stage.folder:
            return self.run.name
        return f"{self.run.name}/{self.stage.number:02d}-{self.stage.kind}"


def is_run(folder: Path) -> bool:
    return (folder / RUN).is_file()


def find_final(text: str, stage: str = "") -> FinalModel | None:
    """What a run's name or folder stands for, with a stage behind a slash if one is meant; None where neither is a run.

    A folder that is there, run or model, is what is meant; then a run below runs/; then a stage of one.
    """
    path = Path(text).expanduser()
    if (path / "config.json").is_file():
        return None
    for folder in (path, RUNS / path):
        if is_run(folder):
            return final_model(folder, stage)
    if is_trained(path):
        return trained_model(path, stage)
    for folder in (path.parent, RUNS / path.parent):
        if path.name and folder != RUNS and is_run(folder):
            if stage and stage != path.name:
                raise InputError(text, f"names the stage '{path.name}', and another one was asked for", stage)
            return final_model(folder, path.name)
    return None


def final_model(folder: Path, stage: str = "") -> FinalModel:
    """The model of the last training stage, or of the one that is named by its kind or by its number and kind."""
    run = read_run(folder)
    found = _stage(run, stage)
    adapter = run.folder / STAGES / found.folder / ADAPTER
    # A run that ended calls all its stages done; one that lost its manifest since then is not.
    if found.state != "done" or read_manifest(adapter.parent) is None:
        state = found.state if found.state != "done" else "unfinished"
        problem = f"stage {found.number:02d}-{found.kind} has trained no model yet: it is {state}"
        raise InputError(str(folder), problem, None, "let it finish: the command that started the run goes on with it")
    return FinalModel(_spec(read_yaml(folder / RUN), adapter), adapter, run, found)


def trained_model(folder: Path, stage: str = "") -> FinalModel:
    """The model of a training alone, once that is done."""
    training = read_training(folder)
    if stage not in ("", training.method):
        raise InputError(str(folder), f"was trained by {training.method} alone", stage, "leave the stage out")
    manifest = read_manifest(folder)
    if manifest is None:
        remedy = "give the command that began it again: it goes on"
        raise InputError(str(folder), "this training is not finished, so there is no model yet", None, remedy)
    counts = manifest.counts
    only = StageState(1, training.method, "", "done", counts["inputs"], counts["inputs"], dict(counts))
    run = RunState(folder.resolve().name, folder, "done", (only,), "", None)
    return FinalModel(base_of(training), folder / ADAPTER, run, only)


def final_adapter(run: RunState) -> Path | None:
    """The adapter of the last training stage, once that is done."""
    trained = [stage for stage in run.stages if stage.kind in TRAINING]
    if not trained or trained[-1].state != "done":
        return None
    return run.folder / STAGES / trained[-1].folder / ADAPTER


def refuse_misspelt(text: str) -> None:
    """Refuse what is nearly a run's name and nothing else, before it is taken for a hub id that lacks its revision."""
    first, _, rest = text.partition("/")
    known = sorted(path.parent.name for path in RUNS.glob(f"*/{RUN}"))
    close = difflib.get_close_matches(first, known, n=1)
    if close and not Path(text).expanduser().exists():
        meant = f"{close[0]}/{rest}" if rest else close[0]
        raise MissingModel(text, "is no run, and no folder", None, f"did you mean '{meant}'?")


def _stage(run: RunState, name: str) -> StageState:
    trained = [stage for stage in run.stages if stage.kind in TRAINING]
    place = str(run.folder)
    if not trained:
        raise InputError(place, "this run trains no model", None, f"name one with a stage {' or '.join(TRAINING)}")
    if not name:
        return trained[-1]
    words = [word for stage in trained for word in (stage.kind, f"{stage.number:02d}-{stage.kind}")]
    for stage in reversed(trained):
        if name in (stage.kind, f"{stage.number:02d}-{stage.kind}"):
            return stage
    close = difflib.get_close_matches(name, words, n=1)
    known = f"its training stages are {', '.join(dict.fromkeys(words))}"
    raise InputError(
        place, "has no such training stage", name, f"did you mean '{close[0]}'? {known}" if close else known
    )


def _spec(document: Document, adapter: Path) -> ModelSpec:
    """The run's model; a folder by its full path, as the run found it, since this may be started elsewhere."""
    spec = validated(document, PipelineSpec, ("pipeline",)).model
    assert spec is not None, f"{adapter} was trained on no model"
    if spec.base == "tiny":
        return spec
    data = document.data if isinstance(document.data, dict) else {}
    if spec.revision is not None:
        return replace(spec, revision=str(data.get("commit") or spec.revision))
    noted = data.get("base_folder")
    # Runs of earlier versions told it in the adapter.
    named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    places = [Path(str(place)).expanduser() for place in (noted, spec.base, named) if place]
    for place in places:
        if place.is_dir():
            return replace(spec, base=str(place.resolve()))
    raise MissingModel(document.name, "the run's base model is gone", str(places[0]), "put it back where it was")
