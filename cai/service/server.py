"""Starts the service: binds a loopback address, says where it is, serves until it is told to stop."""

import asyncio
import signal
import socket
from pathlib import Path

import uvicorn

from cai.errors import InputError
from cai.service.app import build_app
from cai.service.auth import check_loopback, hosts_of
from cai.service.office import Office, open_office

DRAIN_SECONDS = 3
"""How long answers that are on their way may take once the service is to stop."""


def serve(host: str, port: int, runs: Path) -> None:
    address = check_loopback(host)
    # uvicorn stops at these signals, and then raises them again, which must not end the process before its worker.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with _listening(address, port) as listening:
        asyncio.run(_serve(address, listening, runs))


async def _serve(address: str, listening: socket.socket, runs: Path) -> None:
    port = listening.getsockname()[1]
    async with open_office(runs, Path.cwd()) as office:
        config = uvicorn.Config(
            build_app(office, hosts_of(address, port)),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            # No proxy stands in front, so nobody may say who is asking.
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            ws="none",
            http="h11",
        )
        server = uvicorn.Server(config)
        print(f"http://{f'[{address}]' if ':' in address else address}:{port}", flush=True)
        closing = asyncio.create_task(_close_streams(server, office))
        await server.serve(sockets=[listening])
        await closing


async def _close_streams(server: uvicorn.Server, office: Office) -> None:
    """Event streams have no end of their own that the server could wait for."""
    while not server.should_exit:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.1)
    office.closing.set()


def _listening(address: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
    except OSError as error:
        listening.close()
        raise InputError("--port", f"cannot be used ({error.strerror})", port, "choose another, or 0") from None
    listening.listen(128)
    return listening
