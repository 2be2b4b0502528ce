"""What the stages of one run share: the models, opened when they are first needed, and the wish to stop.

Nothing is loaded for a run of which everything is done, and no base for stages that only ask remote models. Which role
a model plays is the stages' business.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cai.models.local.spec import ModelSpec
from cai.models.local.width import AtOnce
from cai.models.remote.spec import RemoteSpec
from cai.pipeline.calls import Calls, Remembering
from cai.records import digest

if TYPE_CHECKING:
    from cai.models.local.view import LocalModel
    from cai.models.local.workbench import Workbench
    from cai.models.protocol import Model
    from cai.models.remote.model import RemoteModel


REMOTE = "remote"
"""The folder in a run's folder where each remote model keeps its replies."""


class Desk:
    """Owns the workbench of a run, the views on it, and its remote models. Close it, or use it as a context."""

    def __init__(
        self,
        spec: ModelSpec | None,
        remotes: Mapping[str, RemoteSpec],
        folder: Path,
        stop: Callable[[], bool],
        *,
        check_memory: bool = True,
    ) -> None:
        self.spec = spec
        self.remote_specs = remotes
        self.folder = folder
        self.stop = stop
        self._opened = ExitStack()
        self._remotes: dict[str, RemoteModel] = {}
        self._check_memory = check_memory
        self._calls: Calls | None = None
        self._fingerprint = ""
        self._workbench: Workbench | None = None
        self._at_once: AtOnce | None = None
        self._views: dict[Path | None, LocalModel] = {}

    @property
    def facts(self) -> dict[str, object] | None:
        """What the workbench knows of model and machine; None while it is closed."""
        return dict(self._workbench.facts) if self._workbench else None

    def fingerprint(self) -> str:
        """What decides the answers of the base, found without loading it; a model that is not there is refused."""
        if not self._fingerprint:
            assert self.spec is not None, "a stage needs a base that the pipeline does not name"
            from cai.models.local.digests import weights_digest
            from cai.models.local.finding import find_model

            found = find_model(self.spec.base, self.spec.revision)
            weights, spec = weights_digest(found.folder), self.spec
            decides = [weights, found.revision, spec.quantization, spec.template, spec.clock]
            self._fingerprint = digest([*decides, *spec.own_precision.values()])
        return self._fingerprint

    def workbench(self) -> "Workbench":
        if self._workbench is None:
            from cai.models.local.workbench import open_workbench

            assert self.spec is not None, "a stage needs a base that the pipeline does not name"
            self._workbench = open_workbench(self.spec, check_memory=self._check_memory)
            self._workbench.limits.set(self._at_once)
        return self._workbench

    def at_once(self) -> AtOnce | None:
        """How much the model takes at once, at most; None while none is loaded."""
        return None if self._workbench is None else self._workbench.limits.at_once

    def take_at_once(self, at_once: AtOnce | None) -> None:
        """Take at most so much at once from now on, or as much as fits by the estimate."""
        self._at_once = at_once
        if self._workbench is not None:
            self._workbench.limits.set(at_once)

    def forget(self) -> None:
        """Nothing that was computed for earlier calls is used by later ones."""
        if self._calls is not None:
            self._calls.forget()
        if self._workbench is not None:
            self._workbench.forget()

    @contextmanager
    def recalling(self, folder: Path | None) -> Iterator[Calls | None]:
        """Within this, local models are not asked again what they said for the other folders beside this one."""
        self._calls = Calls(folder) if folder else None
        try:
            yield self._calls
        finally:
            self._calls = None

    def view(self, adapter: Path | None = None) -> "LocalModel":
        """The base, or the base with an adapter; the same one each time."""
        if adapter not in self._views:
            self._views[adapter] = self.workbench().view(adapter)
        return self._views[adapter]

    def player(self, remote: str | None, adapter: Path | None = None) -> "Model":
        """Who plays a role: the remote model of this name, or the base, or the base with an adapter."""
        if remote is not None:
            return self.remote(remote)
        view = self.view(adapter)
        return view if self._calls is None else Remembering(view, self._calls)

    def remote(self, name: str) -> "RemoteModel":
        """A remote model; the same one each time."""
        if name not in self._remotes:
            from cai.models.remote.model import open_remote

            opened = open_remote(self.remote_specs[name], self.folder / REMOTE / name, name, self.stop)
            self._remotes[name] = self._opened.enter_context(opened)
        return self._remotes[name]

    def check_keys(self) -> None:
        """Refuses a remote model whose key is not there."""
        from cai.models.remote.key import read_key

        for name, spec in self.remote_specs.items():
            read_key(spec, f"model {name!r}")

    def close(self) -> None:
        self._opened.close()
        self._remotes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
