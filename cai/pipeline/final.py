"""The model that a run ended with: its base, and the last adapter that it trained.

For whoever wants to talk to it. Loading it is the workbench's business.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from cai.errors import InputError
from cai.models.local.spec import ModelSpec
from cai.pipeline.configs import TRAINING, PipelineSpec
from cai.pipeline.inputs import ADAPTER
from cai.store.run_folder import RUN, STAGES, RunState, read_run
from cai.strict_yaml import Document, read_yaml, validated


@dataclass(frozen=True, slots=True)
class FinalModel:
    spec: ModelSpec
    adapter: Path


def is_run(folder: Path) -> bool:
    return (folder / RUN).is_file()


def final_model(folder: Path) -> FinalModel:
    adapter = final_adapter(read_run(folder))
    if adapter is None:
        raise InputError(str(folder), "this run has trained no model yet", None, "let it finish a training stage")
    return FinalModel(_spec(read_yaml(folder / RUN), adapter), adapter)


def final_adapter(run: RunState) -> Path | None:
    """The adapter of the last training stage, once that is done."""
    trained = [stage for stage in run.stages if stage.kind in TRAINING]
    if not trained or trained[-1].state != "done":
        return None
    return run.folder / STAGES / trained[-1].folder / ADAPTER


def _spec(document: Document, adapter: Path) -> ModelSpec:
    """The run's model; a folder as the adapter names it, in full, since the run may have been started elsewhere."""
    spec = validated(document, PipelineSpec, ("pipeline",)).model
    assert spec is not None, f"{adapter} was trained on no model"
    if spec.base == "tiny":
        return spec
    if spec.revision is not None:
        commit = document.data.get("commit") if isinstance(document.data, dict) else None
        return replace(spec, revision=str(commit or spec.revision))
    named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    return replace(spec, base=str(named))
