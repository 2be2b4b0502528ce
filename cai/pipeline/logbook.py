"""The files about a run as a whole: `run.yaml`, what it is, and `events.jsonl`, what it told and when.

Both are for people and for `status`: no result is read from them, so only they hold times and places. The commit that
a branch stood for is read back (`pinning`), and where a local base lay (`final`).
"""

import io
import json
import time
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

from cai.errors import Interrupted
from cai.files import write_atomic
from cai.models.local.spec import ModelSpec
from cai.pipeline.events import Event
from cai.pipeline.inputs import constitution_facts
from cai.pipeline.spec import Pipeline

EVENTS = "events.jsonl"
RUN = "run.yaml"


class EventLog:
    """`events.jsonl`, open while something works; how that ended is the last thing in it."""

    def __init__(self, path: Path) -> None:
        self._events = open(path, "a+b")  # noqa: SIM115 - held until the work ends
        if self._events.tell():
            self._events.seek(-1, io.SEEK_END)
            if self._events.read(1) != b"\n":
                self._events.write(b"\n")  # Who was killed may have left half a line.

    def note(self, event: Event) -> None:
        self._write(event.kind, event.stage, event.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(error, Interrupted | GeneratorExit | KeyboardInterrupt):
            self._write("run_interrupted", "", {"message": str(error)})
        elif error is not None:
            self._write("run_failed", "", {"error": str(error) or type(error).__name__})
        self._events.close()

    def _write(self, kind: str, stage: str, data: dict[str, object]) -> None:
        line = {"time": round(time.time(), 3), "kind": kind, "stage": stage, "data": data}
        self._events.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        self._events.flush()


class Logbook:
    """Open while a run works; how it ended is the last thing it notes."""

    def __init__(self, pipeline: Pipeline, folder: Path, commit: str | None = None) -> None:
        self.folder = folder
        self._resolved = _yaml(resolved(pipeline, commit))
        self._facts: dict[str, object] | None = None
        path = folder / RUN
        if not path.exists() or not path.read_text(encoding="utf-8").startswith(self._resolved):
            write_atomic(path, self._resolved)
        self._events = EventLog(folder / EVENTS)

    def note(self, event: Event, facts: dict[str, object] | None) -> None:
        """Append an event; the machine's facts go to `run.yaml` once they are known."""
        if facts and facts != self._facts:
            self._facts = facts
            write_atomic(self.folder / RUN, self._resolved + _yaml({"facts": facts}))
        self._events.note(event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._events.__exit__(kind, error, at)


def resolved(pipeline: Pipeline, commit: str | None = None) -> dict[str, object]:
    """The pipeline with every default written out, the commit that its model's revision stood for when the run began
    or where a local base lies, and the constitution that it named."""
    spec = pipeline.spec.model_dump(mode="json", by_alias=True)
    stages = [{stage.kind: stage.config.model_dump(mode="json", by_alias=True)} for stage in pipeline.stages]
    return {
        "pipeline": {**spec, "stages": stages},
        **({"commit": commit} if commit else {}),
        **_place(pipeline.model),
        "constitution": constitution_facts(pipeline.constitution),
        "versions": {"cai": version("cai")},
    }


def _place(model: ModelSpec | None) -> dict[str, str]:
    """Where a local base lies, in full: the pipeline may name it from where the run was started."""
    if model is None or model.base == "tiny" or not Path(model.base).is_dir():
        return {}
    return {"base_folder": str(Path(model.base).resolve())}


def _yaml(data: dict[str, object]) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 10_000
    writer.dump(data, stream)
    return stream.getvalue()
