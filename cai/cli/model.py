"""`cai model`: what is done with models as wholes.

`quantization` measures what 4 and 8 bits cost, by `cai.models.local`; `export` takes a run's model along, by
`cai.pipeline.export`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cai.cli.screen import complain, console, print_json, table
from cai.errors import InputError

if TYPE_CHECKING:
    from cai.evaluate.quantization import Row
    from cai.models.local.quantization import Measured

model_app = typer.Typer(no_args_is_help=True, help="Measure a model, or take a tuned one along.")


@model_app.callback()
def _noun() -> None:
    """Measure a model, or take a tuned one along."""


@model_app.command()
def quantization(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="`tiny`, a folder, or a hub id.", show_default=False)],
    text: Annotated[
        Path | None, typer.Option(help="A text file to predict; the embedded model has its own.", show_default=False)
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Prompts that ask for A or B, as in a pipeline; pairs of the embedded world, if not said.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The commit of a hub id.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")] = False,
) -> None:
    """Load a model as it is, in 8 bits and in 4, and compare size, speed, perplexity and choices.

    A choice agrees where the same one of A and B is likelier as without quantisation.
    """
    import dataclasses

    from cai.evaluate.quantization import compared

    rows = compared(_measured(model, revision, text, questions))
    if as_json:
        print_json({"model": model, "rows": [dataclasses.asdict(row) for row in rows]})
        return
    _show(rows)


def _measured(model: str, revision: str | None, text: Path | None, questions: Path | None) -> "list[Measured]":
    from cai.evaluate.quantization import embedded_passages, embedded_questions, questions_of
    from cai.models.local.quantization import measure
    from cai.models.local.spec import ModelSpec, Quantization
    from cai.store.formats.prompts import read_prompts

    if text is None and model != "tiny":
        raise InputError("--text", "only the embedded model has a text of its own", None, "give a text file")
    read = _text(text) if text else ""
    asked = questions_of(read_prompts(questions, None)) if questions else embedded_questions()
    passages = [] if text else embedded_passages()
    kinds: tuple[Quantization, ...] = ("none", "int8", "nf4")
    measured = []
    for kind in kinds:
        complain(f"measuring {kind} …")
        measured.append(measure(ModelSpec(model, revision, kind), read, passages, asked))
    return measured


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read ({error})", None, "give a UTF-8 text file") from None


def _show(rows: "list[Row]") -> None:
    from cai.models.local.fitting import gib

    made = table(["", "weights", "fp32 copies", "tokens/s", "perplexity", "same choice", "mean |Δp|"], range(1, 7))
    for row in rows:
        made.add_row(
            row.quantization, gib(row.bytes), gib(row.copies) if row.copies else "", f"{row.tokens_per_second:,.0f}",
            f"{row.perplexity:.3f}", f"{row.agreement:.1%}", f"{row.shift:.4f}",
        )  # fmt: skip
    console().print(made)


@model_app.command()
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
