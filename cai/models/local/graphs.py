"""Recording work on CUDA as a graph: the kernels that it launches, launched again as one.

The one place where a GPU is treated unlike a CPU while decoding; what is recorded, and when, is `steps`' business.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from cai.models.local.steps import Record


def recorder(device: torch.device) -> Record | None:
    """How steps are recorded on this device; None where they are not."""
    return CudaRecorder(device) if device.type == "cuda" else None


class CudaRecorder:
    """Records graphs that share one pool of memory: none of them keeps anything there from one replay to the next."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        with torch.cuda.device(self._device):
            side, main = torch.cuda.Stream(), torch.cuda.current_stream()
            side.wait_stream(main)
            # Libraries make ready at a first call what may not be made while recording. And work that has to wait for
            # the device says so here, where nothing has begun: a recording that breaks off leaves torch's random
            # numbers unusable.
            with torch.cuda.stream(side), _nothing_waits():
                work()
            main.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # What other threads do on the device meanwhile is no part of this, and no reason to break off.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        return graph.replay


@contextmanager
def _nothing_waits() -> Iterator[None]:
    """Within this, what would make the processor wait for the GPU raises `RuntimeError`."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
