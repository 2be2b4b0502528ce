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

    def __init__(self, spec: ModelSpec, stop: Callable[[], bool], *, check_memory: bool = True) -> None:
        self.spec = spec
        self.stop = stop
        self._check_memory = check_memory
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

            self._workbench = open_workbench(self.spec, check_memory=self._check_memory)
        return self._workbench

    def view(self, adapter: Path | None = None) -> "LocalModel":
        """The base, or the base with an adapter; the same one each time."""
        if adapter not in self._views:
            self._views[adapter] = self.workbench().view(adapter)
        return self._views[adapter]
