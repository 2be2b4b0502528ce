"""`cai model`: what is done with models as wholes. Exporting one is `cai.pipeline.export`'s."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from cai.cli.screen import complain, console, print_json, table

model_app = typer.Typer(name="model", help="Take a tuned model along.", no_args_is_help=True)


@model_app.callback()
def model() -> None:
    """Take a tuned model along."""


@model_app.command("export")
def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's name or folder, or RUN/STAGE.", show_default=False)
    ],
    to: Annotated[Literal["adapter", "merged", "ollama"], typer.Option(help="What is wanted.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder that is not there yet.", show_default=False)],
    stage: Annotated[
        str, typer.Option(help="The training stage, such as sft; the last one, if not said.", show_default=False)
    ] = "",
    licence: Annotated[
        str | None,
        typer.Option("--license", help="For the card: the hub's word, such as apache-2.0.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")] = False,
) -> None:
    """Write a run's model as a folder that others load, read it again, and say how far it agrees.

    adapter: a PEFT folder with its card. merged: the base's own 16-bit weights with the adapter added.

    ollama: the merged model and a Modelfile. No GPU is needed, and nothing is overwritten.
    """
    from cai.errors import MissingModel
    from cai.pipeline.export import agreement_table, export_model, tolerance_text
    from cai.pipeline.final import find_final, refuse_misspelt

    final = find_final(run, stage)
    if final is None:
        refuse_misspelt(run)
        raise MissingModel(run, "is no run", None, "name one below runs/, or a run's folder, such as runs/quickstart")
    done = export_model(final, to, out, licence)
    if as_json:
        print_json(done.as_json())
        return
    agreement = agreement_table(done.exported, final.spec.quantization)
    shown = table(agreement.head, range(1, len(agreement.head)))
    for row in agreement.rows:
        shown.add_row(*row)
    screen = console()
    screen.print(tolerance_text(to, done.exported))
    screen.print(shown)
    for note in done.exported.notes:
        complain(f"note: {note}")
    screen.print(f"{done.name} → {out}", soft_wrap=True)
