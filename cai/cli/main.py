"""The command `cai`: its sub-commands, and how an error ends it.

Each noun has a file of its own, which imports nothing heavy until its command runs: `cai --help` must be immediate.
"""

import sys
from typing import Annotated

import typer

from cai.cli.chat import chat
from cai.cli.constitution import constitution_app
from cai.cli.data import data_app
from cai.cli.doctor import doctor
from cai.cli.init import init
from cai.cli.inspect import status, trace
from cai.cli.judge import judge_app
from cai.cli.model import model_app
from cai.cli.plan import plan
from cai.cli.prompts import prompts_app
from cai.cli.revise import revise
from cai.cli.run import run as run_command
from cai.cli.screen import complain
from cai.cli.serve import serve
from cai.cli.train import train
from cai.errors import CaiError

app = typer.Typer(
    name="cai",
    help="Align a language model to a written constitution, by itself, on one machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("plan")(plan)
app.command("run")(run_command)
app.command("train")(train)
app.command("status")(status)
app.command("trace")(trace)
app.command("revise")(revise)
app.command("chat")(chat)
app.add_typer(constitution_app, name="constitution")
app.add_typer(model_app, name="model")
app.add_typer(data_app, name="data")
app.add_typer(judge_app, name="judge")
app.add_typer(prompts_app, name="prompts")
app.command("doctor")(doctor)
app.command("init")(init)
app.command("serve")(serve)


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
