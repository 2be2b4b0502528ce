"""`cai init`: a folder to start from. Its files lie in `starter`; the prompts are drawn from the embedded world."""

from pathlib import Path
from typing import Annotated

import typer

from cai.cli.screen import console
from cai.errors import InputError

STARTER = Path(__file__).parent / "starter"
PROMPTS_OF_EACH = 60


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.", show_default=False)],
) -> None:
    """Make a project: a constitution, prompts, and a pipeline that runs on the embedded model."""
    from cai.files import write_atomic
    from cai.models.tiny.world import prompts

    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), "is a file", None, "name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(str(folder), "is not empty", None, "name a new folder; nothing is ever overwritten")
    asked = "".join(f"{prompt.messages[-1].content}\n" for prompt in prompts("align", PROMPTS_OF_EACH))
    write_atomic(folder / "prompts.txt", asked)
    for source in sorted(STARTER.iterdir()):
        write_atomic(folder / source.name, source.read_text(encoding="utf-8"))
    screen = console()
    screen.print(f"Made {folder}: constitution.yaml, prompts.txt, pipeline.yaml, README.md")
    screen.print(f"Next: cd {folder} && cai run pipeline.yaml")
