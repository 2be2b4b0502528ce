"""Recording on a CPU: work done again, by one who insists that it is done where it was done before."""

from collections.abc import Callable

from cai.models.local.network import Network
from cai.models.local.replica import _Dense
from cai.models.local.steps import Steps


class Recorder:
    """Records by remembering the work, and counts what is recorded and replayed. As a graph does, it keeps to the
    memory that it was made with: a replay anywhere else would be a wrong answer there, and is an error here."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.steps: Steps | None = None

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        made_with = self._memory()

        def replay() -> None:
            self.replayed += 1
            assert self._memory() == made_with
            work()

        return replay

    def _memory(self) -> list[object]:
        """Where everything lies that a step reads or writes."""
        assert self.steps is not None
        room, model = self.steps._room, self.steps._network.model
        assert room is not None
        tensors = [*room.slots._layers, room.given_2R, room.logits_RV, *model.parameters()]
        if room.beginning is not None:
            tensors += [*room.beginning.layers, room.beginning.length]
        copies = [vars(module).get("forward") for module in model.modules()]
        tensors += [forward._weight for forward in copies if isinstance(forward, _Dense)]
        adapters = [getattr(module, "_active_adapter", None) for module in model.modules()]
        return [*(tensor.data_ptr() for tensor in tensors), adapters]


def recording(network: Network) -> tuple[Steps, Recorder]:
    recorder = Recorder()
    recorder.steps = Steps(network, recorder)
    return recorder.steps, recorder
