"""`cai plan`: what a pipeline, or a model, will need in memory and ask of the machine, before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.screen import console, print_json, span, table
from cai.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from cai.models.local.memory import Device
    from cai.pipeline.plan import Plan
    from cai.pipeline.plan_model import ModelPlan


def plan(
    pipeline: Annotated[
        Path | None, typer.Argument(metavar="[PIPELINE]", help="The pipeline file.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Replace one value of the file. May be given again."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Instead of a pipeline: `tiny`, a folder, a config.json, or a hub id and @ and its revision.",
            show_default=False,
        ),
    ] = None,
    card: Annotated[
        int | None,
        typer.Option(min=1, help="A GPU's memory in GB: say what would have to change to fit.", show_default=False),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Plan for a CPU, in 32 bits, instead of a GPU.")] = False,
    run: Annotated[
        Path | None, typer.Option(help="The folder of an earlier run, which tells the time.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")] = False,
) -> None:
    """Say what a pipeline needs in memory, where it fits, and how much it asks of the model.

    Nothing is loaded. Numbers of calls and tokens are the most that there can be.
    """
    from cai.pipeline.plan import plan as plan_of
    from cai.pipeline.plan import plan_as_json
    from cai.pipeline.plan_model import model_plan, model_plan_as_json
    from cai.pipeline.runner import run_folder
    from cai.pipeline.spec import load_pipeline

    if (pipeline is None) == (model is None):
        raise InputError("cai plan", "takes either a pipeline or --model", None, "name one of the two")
    device: Device = "cpu" if cpu else "cuda"
    if model is not None:
        base, _, revision = model.partition("@")
        asked = model_plan(base, revision or None, device, card)
        if as_json:
            print_json(model_plan_as_json(asked, card))
        else:
            _show_model(asked, card)
        return
    assert pipeline is not None
    loaded = load_pipeline(pipeline, overrides or [])
    before = run or (run_folder(loaded) if (run_folder(loaded) / "run.yaml").is_file() else None)
    made = plan_of(loaded, device, before, card)
    if as_json:
        print_json(plan_as_json(made, card))
    else:
        _show(made, card)


def _show(made: "Plan", card: int | None) -> None:
    from cai.models.local.fitting import cards_for, gib

    screen = console()
    where = "a CPU" if made.setup.device == "cpu" else "a GPU"
    size = f"{made.setup.shape.parameters / 1e6:,.0f} M parameters, {made.spec.quantization}"
    screen.print(f"{made.name}: {made.spec.base}, {size}, on {where}")
    memory = table(["stage", "phase", "rows", "tokens", "memory", "fits"], (2, 3, 4, 5))
    memory.add_row("", "load", "", "", gib(made.loading.bytes), _cards(cards_for(made.loading.bytes)))
    for stage in made.stages:
        for i, phase in enumerate(stage.phases):
            batch, fitting = phase.batch, _cards(cards_for(phase.least_need.bytes))
            sizes = (str(batch.rows), str(batch.length), gib(phase.need.bytes), fitting)
            memory.add_row("" if i else stage.work.stage, phase.need.phase, *sizes)
    screen.print(memory)
    screen.print(_work_table(made))
    total = f"; about {span(made.seconds)}" if made.seconds is not None else ""
    screen.print(f"Peak {gib(made.bytes)}; fits {_cards(made.cards)}{total}")
    if made.narrower:
        told = f"Rows generated together are those that {gib(made.room)} have room for; with less, fewer go together"
        screen.print(f"{told}, and `fits` counts on that", soft_wrap=True)
    if card is not None:
        for line in made.advice(card):
            screen.print(line, soft_wrap=True)


def _work_table(made: "Plan") -> "Table":
    rows = table(["stage", "rows", "answers", "choices", "tokens read", "written", "updates", "time"], range(1, 8))
    for stage in made.stages:
        work = stage.work
        read = work.prompt_tokens + work.trained_tokens
        counts = [_number(n) for n in (work.inputs, work.answers, work.judgements, read, work.new_tokens, work.updates)]
        rows.add_row(work.stage, *counts, span(stage.seconds) if stage.seconds is not None else "")
    return rows


def _show_model(asked: "ModelPlan", card: int | None) -> None:
    from cai.models.local.fitting import cards_for, gib

    screen = console()
    screen.print(f"{asked.name}: {asked.shape.parameters / 1e6:,.0f} M parameters")
    rows = table(["", "phase", "rows", "tokens", "memory", "fits"], (2, 3, 4))
    for row in asked.rows:
        batch = row.work
        sizes = ("", "") if batch is None else (str(batch.rows), str(batch.length))
        fitting = _cards(cards_for(row.least_need.bytes))
        rows.add_row(row.quantization, row.need.phase, *sizes, gib(row.need.bytes), fitting)
    screen.print(rows)
    if card is not None:
        for line in asked.advice(card):
            screen.print(line, soft_wrap=True)


def _cards(cards: Sequence[int]) -> str:
    """The smallest of those that it fits, since it fits all that are larger."""
    from cai.models.local.fitting import CARDS

    return f"{min(cards)} GB" if cards else f"none up to {max(CARDS)} GB"


def _number(count: int) -> str:
    return f"{count:,}" if count else ""
