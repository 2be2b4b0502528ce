"""What the service's routes share while it is open: the queue, the runs, the device.

One service at a time works in a runs folder; a second one is refused by the folder's lock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from cai.files import folder_lock
from cai.service.device import Device
from cai.service.jobs import Queue
from cai.service.listing import Listing

HOME = ".service"
"""The service's own folder in the runs folder: its queue, its pipelines, its worker's log."""


@dataclass(frozen=True, slots=True)
class Office:
    project: Path
    """Where the service was started: pipelines that are sent in may name files below it."""
    home: Path
    queue: Queue
    listing: Listing
    device: Device
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the service is to stop."""

    async def pause(self, seconds: float) -> bool:
        """Wait, but not beyond the service's end; whether there is any use in going on."""
        try:
            await asyncio.wait_for(self.closing.wait(), seconds)
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def open_office(runs: Path, project: Path) -> AsyncIterator[Office]:
    runs, home = runs.resolve(), runs.resolve() / HOME
    with folder_lock(home):
        queue = Queue(home / "queue.sqlite3")
        device = Device(runs, home, queue)
        try:
            await device.start()
            yield Office(project.resolve(), home, queue, Listing(runs, queue), device)
        finally:
            await device.close()
            queue.close()


def office_of(request: Request) -> Office:
    office = request.app.state.office
    assert isinstance(office, Office), "the app has not been opened"
    return office
