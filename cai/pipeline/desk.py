"""What the stages of one run share: the workbench, opened when it is first needed, and the wish to stop.

Nothing is loaded for a run of which everything is done. Which role a view plays is the stages' business.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cai.models.local.spec import ModelSpec
from cai.records import digest

if TYPE_CHECKING:
    from cai.models.local.view import LocalModel
    from cai.models.local.workbench import Workbench


class Desk:
    """Owns the workbench of a run, and the views on it."""

    def __init__(self, spec: ModelSpec, stop: Callable[[], bool]) -> None:
        self.spec = spec
        self.stop = stop
        self._fingerprint = ""
        self._workbench: Workbench | None = None
        self._views: dict[Path | None, LocalModel] = {}

    @property
    def facts(self) -> dict[str, object] | None:
        """What the workbench knows of model and machine; None while it is closed."""
        return dict(self._workbench.facts) if self._workbench else None

    def fingerprint(self) -> str:
        """What decides the answers of the base, found without loading it; a model that is not there is refused."""
        if not self._fingerprint:
            from cai.models.local.finding import find_model
            from cai.models.local.loading import weights_digest

            found = find_model(self.spec.base, self.spec.revision)
            weights, spec = weights_digest(found.folder), self.spec
            self._fingerprint = digest([weights, found.revision, spec.quantization, spec.template, spec.clock])
        return self._fingerprint

    def workbench(self) -> "Workbench":
        if self._workbench is None:
            from cai.models.local.workbench import open_workbench

            self._workbench = open_workbench(self.spec)
        return self._workbench

    def rows_at_once(self) -> int:
        """How many rows the model takes at once, at most."""
        return self.workbench().limits.rows

    def take_at_once(self, rows: int | None) -> None:
        """Take at most this many rows at once from now on, or as many as is usual."""
        if rows is not None or self._workbench is not None:
            self.workbench().limits.set(rows)

    def forget(self) -> None:
        """Nothing that was computed for earlier calls is used by later ones."""
        if self._workbench is not None:
            self._workbench.forget()

    def view(self, adapter: Path | None = None) -> "LocalModel":
        """The base, or the base with an adapter; the same one each time."""
        if adapter not in self._views:
            self._views[adapter] = self.workbench().view(adapter)
        return self._views[adapter]
