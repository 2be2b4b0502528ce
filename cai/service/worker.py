"""The worker process: owns the device, runs pipelines one after the other, and answers conversations.

    python -m cai.service.worker RUNS-FOLDER

One thread does all the work, so that nothing on the device happens at the same time as something else: a run that is
going on answers waiting conversations between its steps, if they are for the embedded model, which has room beside
anything; those for other models are told to come back. When the service is gone, its end of the pipe closes; the run
then stops after the step in hand, or, where a step takes too long, in the middle, which a run survives as well.
"""

import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cai.errors import CaiError, FolderInUse, InputError, Interrupted
from cai.files import folder_lock
from cai.models.local.spec import ModelSpec
from cai.models.protocol import Request
from cai.service.messages import (
    ChatBegun,
    ChatEnded,
    ChatOrder,
    ChatRefused,
    ChoiceEnded,
    ForgetOrder,
    News,
    Order,
    Piece,
    Ready,
    RunEnded,
    RunOrder,
    StopOrder,
    read_order,
    to_wire,
)

if TYPE_CHECKING:
    from cai.models.local.view import LocalModel
    from cai.models.local.workbench import Workbench

TINY = ModelSpec("tiny")
GRACE_SECONDS = 20.0
"""How long a step may take to end once the service is gone."""
LOCK_SECONDS = 60.0
"""How long the last worker may take to let go of the device."""


class Inbox:
    """Orders as they come in. Stops and forgets count at once, while the working thread is busy."""

    def __init__(self, source: BinaryIO, at_end: Callable[[], None]) -> None:
        self._source = source
        self._at_end = at_end
        self._waiting: queue.SimpleQueue[RunOrder | ChatOrder | None] = queue.SimpleQueue()
        self._stopped: set[int] = set()
        self._forgotten: set[int] = set()
        self.gone = False
        """Whether no more orders come."""

    def listen(self) -> None:
        for line in iter(self._source.readline, b""):
            self._take(read_order(line))
        self.close()

    def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._waiting.put(None)
            self._at_end()

    def next(self) -> RunOrder | ChatOrder | None:
        """The next order, waited for; None at the end."""
        return None if self.gone else self._waiting.get()

    def waiting_chats(self) -> list[ChatOrder]:
        found = []
        while not self._waiting.empty():
            order = self._waiting.get()
            assert not isinstance(order, RunOrder), "one run at a time"
            if order is not None:
                found.append(order)
        return found

    def is_stopped(self, order: RunOrder) -> bool:
        return self.gone or order.job in self._stopped

    def is_forgotten(self, order: ChatOrder) -> bool:
        return self.gone or order.id in self._forgotten

    def settled(self, order: ChatOrder) -> None:
        self._forgotten.discard(order.id)

    def _take(self, order: Order) -> None:
        match order:
            case StopOrder():
                self._stopped.add(order.job)
            case ForgetOrder():
                self._forgotten.add(order.id)
            case _:
                self._waiting.put(order)


class Models:
    """The embedded model once it was asked for, and one other base model at most."""

    def __init__(self) -> None:
        self._benches: dict[ModelSpec, Workbench] = {}

    def view(self, run: str) -> "LocalModel":
        """The model that a run ended with; of no run, the embedded one."""
        from cai.pipeline.final import final_model

        if not run:
            return self._bench(TINY).view()
        final = final_model(Path(run))
        return self._bench(final.spec).view(final.adapter)

    def make_room(self) -> None:
        """Forget all but embedded ones."""
        self._benches = {spec: bench for spec, bench in self._benches.items() if spec.base == "tiny"}
        gc.collect()

    def _bench(self, spec: ModelSpec) -> "Workbench":
        from cai.models.local.workbench import open_workbench

        if spec not in self._benches:
            if spec.base != "tiny":
                self.make_room()
            self._benches[spec] = open_workbench(spec)
        return self._benches[spec]


class Worker:
    def __init__(self, inbox: Inbox, tell: Callable[[News], None]) -> None:
        self._inbox = inbox
        self._tell = tell
        self._models = Models()

    def work(self) -> None:
        self._tell(Ready())
        while (order := self._inbox.next()) is not None:
            if isinstance(order, RunOrder):
                self._run(order)
            else:
                self._answer(order)

    def _run(self, order: RunOrder) -> None:
        self._models.make_room()
        try:
            self._run_pipeline(order)
            ended = RunEnded(order.job, order.token, "done")
        except Interrupted:
            ended = RunEnded(order.job, order.token, "stopped")
        except CaiError as error:
            ended = RunEnded(order.job, order.token, "failed", str(error))
        except Exception as error:  # noqa: BLE001 - a boundary: one job's failure is not the worker's
            traceback.print_exc()
            ended = RunEnded(
                order.job, order.token, "failed", f"a bug, see worker.log: {type(error).__name__}: {error}"
            )
        gc.collect()
        self._tell(ended)

    def _run_pipeline(self, order: RunOrder) -> None:
        from cai.pipeline.runner import run_pipeline
        from cai.pipeline.spec import load_pipeline

        pipeline = load_pipeline(Path(order.pipeline), [f"name={order.run}"])
        for _ in run_pipeline(pipeline, Path(order.folder), lambda: self._inbox.is_stopped(order)):
            for chat in self._inbox.waiting_chats():
                self._answer_beside_run(chat)

    def _answer_beside_run(self, order: ChatOrder) -> None:
        from cai.pipeline.final import final_model

        try:
            embedded = not order.run or final_model(Path(order.run)).spec.base == "tiny"
        except CaiError as error:
            self._tell(ChatRefused(order.id, "bad", str(error)))
            return
        if embedded:
            self._answer(order)
        else:
            self._tell(ChatRefused(order.id, "busy", "a run is using the device; try again when it is done"))

    def _answer(self, order: ChatOrder) -> None:
        self._tell(ChatBegun(order.id))
        try:
            view = self._models.view(order.run)
            for choice in range(len(order.seeds)):
                self._answer_choice(view, order, choice)
            self._tell(ChatEnded(order.id))
        except InputError as error:
            self._tell(ChatRefused(order.id, "failed", str(error)))
        except CaiError as error:
            # What a conversation itself is to blame for, such as its length, is no InputError.
            self._tell(ChatRefused(order.id, "bad", str(error)))
        except Exception as error:  # noqa: BLE001 - a boundary: one answer's failure is not the worker's
            traceback.print_exc()
            self._tell(ChatRefused(order.id, "failed", f"a bug, see worker.log: {type(error).__name__}"))
        finally:
            self._inbox.settled(order)

    def _answer_choice(self, view: "LocalModel", order: ChatOrder, choice: int) -> None:
        pieces = view.stream(Request(order.messages, order.sampling, order.seeds[choice]))
        while True:
            if self._inbox.is_forgotten(order):
                return
            try:
                piece = next(pieces)
            except StopIteration as end:
                reply = end.value
                break
            if order.stream:
                self._tell(Piece(order.id, choice, piece))
        text = "" if order.stream else reply.text
        self._tell(ChoiceEnded(order.id, choice, reply.finish, reply.prompt_tokens, reply.completion_tokens, text))


def main() -> None:
    """Take the device, then orders from standard input until it closes."""
    home = Path(sys.argv[1])
    # What libraries print must not get between the news: it goes to standard error, which is the log.
    wire = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    inbox = Inbox(sys.stdin.buffer, _end_at_the_latest)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: inbox.close())
    threading.Thread(target=inbox.listen, daemon=True).start()
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with folder_lock(home):
                Worker(inbox, lambda news: _send(wire, news)).work()
            return
        except FolderInUse:
            if time.monotonic() > deadline or inbox.gone:
                raise
            time.sleep(0.2)


def _end_at_the_latest() -> None:
    timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _send(wire: BinaryIO, news: News) -> None:
    try:
        wire.write(to_wire(news))
    except BrokenPipeError:
        # The service is gone; the pipe that orders come from says so as well, and ends the work.
        return


if __name__ == "__main__":
    main()
