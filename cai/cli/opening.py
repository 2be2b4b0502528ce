"""Opening what a person names: a model, a run, a stage of a run, or a remote model of some file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cai.errors import InputError

if TYPE_CHECKING:
    from cai.models.local.view import LocalModel
    from cai.models.protocol import Model
    from cai.models.remote.spec import RemoteSpec


def open_named(model: str, revision: str | None) -> "LocalModel":
    """A folder that is there is meant first, then a run, then the hub; with a revision it is the hub's."""
    from cai.models.local.spec import ModelSpec
    from cai.models.local.workbench import open_workbench
    from cai.pipeline.final import find_final, refuse_misspelt

    if model != "tiny" and revision is None:
        final = find_final(model)
        if final is not None:
            return open_workbench(final.spec).view(final.adapter)
        refuse_misspelt(model)
    return open_workbench(ModelSpec(model, revision)).view()


@contextmanager
def open_either(name: str, replies: Path, stop: Callable[[], bool]) -> "Iterator[Model]":
    """The remote model that `FILE.yaml/NAME` names, or else what `open_named` finds, a commit behind an @.

    What a remote model says is kept in the folder for its replies, so that nothing is paid for twice.
    """
    spec = _remote_spec(name)
    if spec is None:
        model, _, revision = name.partition("@")
        yield open_named(model, revision or None)
        return
    from cai.models.remote.model import open_remote

    with open_remote(spec, replies, name.rpartition("/")[2], stop) as opened:
        yield opened


def names_of(name: str) -> tuple[str, ...]:
    """What else people and data call the model that `open_either` finds under this name."""
    spec = _remote_spec(name)
    return (name, name.partition("@")[0]) if spec is None else (name, name.rpartition("/")[2], spec.model)


def _remote_spec(name: str) -> "RemoteSpec | None":
    """The remote model that `FILE.yaml/NAME` names; None for a name of any other kind."""
    file, _, remote = name.rpartition("/")
    if not file.endswith((".yaml", ".yml")):
        return None
    from cai.models.remote.spec import RemoteSpec
    from cai.strict_yaml import read_yaml, validated

    document = read_yaml(Path(file))
    known = document.data.get("models") if isinstance(document.data, dict) else None
    names = list(map(str, known)) if isinstance(known, dict) else []
    if remote not in names:
        remedy = f"known here: {', '.join(names)}" if names else "add it to `models`"
        raise InputError(document.place("models"), "has no such remote model", remote, remedy)
    return validated(document, RemoteSpec, ("models", remote))
