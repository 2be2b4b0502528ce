"""`cai serve`: starts the service on this machine. What it serves lives in `cai.service`."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8642,
    runs: Annotated[Path, typer.Option(help="The folder that holds the runs.")] = Path("runs"),
) -> None:
    """Serve runs, their progress and an OpenAI-compatible endpoint on this machine.

    Pipelines that are sent in may name files below the working directory only.

    There are no keys yet, so addresses that other machines can reach are refused.
    """
    from cai.service.server import serve as start

    start(host, port, runs)
