"""Opening what a person names: a model, a run, or a stage of a run."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cai.models.local.view import LocalModel


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
