"""The command `cai`: its sub-commands, and how an error ends it.

`cai --help` must be immediate. So the commands stand here by name and in one line, and the file of each, which imports
nothing heavy until its command runs, is imported once that command is called.
"""

import importlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from cai.cli.screen import complain
from cai.errors import CaiError

if TYPE_CHECKING:
    from typer._click import Command

COMMANDS: Mapping[str, tuple[str, str]] = {
    "plan": ("plan:plan", "Say what a pipeline needs in memory, where it fits, and how much it asks of the model."),
    "run": ("run:run", "Run a pipeline, or go on with one that was stopped."),
    "train": ("train:train", "Train an adapter by one method, or go on with a training that was stopped."),
    "status": ("inspect:status", "How far a run or a training is; it may be running in another process."),
    "trace": (
        "inspect:trace",
        "Follow a record back to its prompt, its principles, the models that made it, and the seed.",
    ),
    "revise": ("revise:revise", "Answer one prompt, criticise the answer by a drawn principle, and revise it."),
    "chat": ("chat:chat", "Talk to a model. A run stands for its base model with the last adapter that it trained."),
    "doctor": ("doctor:doctor", "Say what this machine can run. Exits with 1 where something needed is missing."),
    "init": ("init:init", "Make a project: a constitution, prompts, and a pipeline that runs on the embedded model."),
    "serve": ("serve:serve", "Serve runs, their progress and an OpenAI-compatible endpoint on this machine."),
    "constitution": ("constitution:constitution_app", "Check, read and compare constitutions."),
    "model": ("model:model_app", "Measure a model, or take a tuned one along."),
    "data": ("data:data_app", "Import, export, filter and inspect preference data."),
    "judge": ("judge:judge_app", "Measure a judge, and label pairs by hand."),
    "prompts": ("prompts:prompts_app", "Have a model write prompts."),
}
"""Where each command is, as a file of this folder and a name in it; and the first paragraph of its own help."""


class Later(TyperCommand):
    """Stands for a command in the list of them; the command itself is imported when it is called."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        return load(self.name or "").make_context(*args, **extra)


class Commands(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: Later(name, help=says) for name, (_, says) in COMMANDS.items()}


def load(name: str) -> "Command":
    """The command itself, or for a noun the group of its commands."""
    file, attribute = COMMANDS[name][0].split(":")
    found = getattr(importlib.import_module(f"cai.cli.{file}"), attribute)
    if isinstance(found, typer.Typer):
        return get_group(found)
    alone = typer.Typer()
    alone.command(name)(found)
    return get_group(alone).commands[name]


app = typer.Typer(
    cls=Commands,
    name="cai",
    help="Align a language model to a written constitution, by itself, on one machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"cai {version('cai')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Align a language model to a written constitution, by itself, on one machine."""


def run() -> None:
    """The entry point. An error of ours is one line and its exit code; anything else is a bug and shows where."""
    try:
        app()
    except CaiError as error:
        complain(f"cai: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
