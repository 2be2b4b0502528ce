"""`cai train`: one method alone, on rows that a person brings, with its progress and what came of it on the screen.

What is done is `cai.pipeline.alone`'s; bars and lines are `progress`'.
"""

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from cai.cli.run import stop_on_signals
from cai.cli.screen import console, counted, print_json, table

if TYPE_CHECKING:
    from cai.pipeline.alone import Order
    from cai.pipeline.events import Event

MethodName = Literal["sft", "reward", "dpo", "kto", "ppo", "grpo", "rloo"]


def train(
    method: Annotated[MethodName, typer.Argument(metavar="METHOD", help="How to train.", show_default=False)],
    data: Annotated[
        Path, typer.Option(help="A file in any layout that `cai data import` reads, or a run.", show_default=False)
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="`tiny`, a folder, or a hub id with its revision: org/name@main. That of --from, if not said.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder; trained/METHOD-DATA, if not said.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A=B", help="One setting, or lora.rank and the like. May be given again."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same as --set seed=N.", show_default=False)] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="ADAPTER", help="Go on from this: a run, a training, a PEFT folder.", show_default=False
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]REWARD[*WEIGHT]",
            help="A reward model's folder, or FILE.py:function. May be given again.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Leave longer rows out, as named rejects.", show_default=False)
    ] = None,
    quantization: Annotated[
        Literal["nf4", "int8", "none"] | None, typer.Option(help="How the base is held; nf4, if not said.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        typer.Option(help="What the base is computed in; if not said, bf16 on a GPU that has it, else fp32."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="A named chat form, for a model without a template of its own.", show_default=False),
    ] = None,
    layout: Annotated[
        str, typer.Option("--as", help="The data's layout; told from its rows if not said.", show_default=False)
    ] = "",
    report_to: Annotated[
        Literal["tensorboard", "wandb"] | None, typer.Option(help="Draw the curves there as well.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON event a line.")] = False,
    no_memory_check: Annotated[
        bool, typer.Option("--no-memory-check", help="Start even where the estimate says that it will not fit.")
    ] = False,
) -> None:
    """Train an adapter by one method, or go on with a training that was stopped.

    sft: answers, or pairs' chosen ones. dpo, reward: pairs. kto: labelled answers, or pairs.

    ppo, grpo, rloo: prompts, and at least one --reward. Rows that do not fit are named in rejects.jsonl.

    Ctrl-C stops after the step in hand, and the same command goes on from there.
    """
    from cai.pipeline.alone import Asked, order_of, train_alone

    changes = (*(overrides or []), *([f"seed={seed}"] if seed is not None else []))
    asked = Asked(
        method, data, model, out, changes, start, quantization, precision, template, layout, max_tokens, report_to,
        tuple(reward or ()),
    )  # fmt: skip
    order = order_of(asked)
    with stop_on_signals() as stop:
        _show(order, train_alone(order, stop, check_memory=not no_memory_check), as_json)


def _show(order: "Order", events: "Iterator[Event]", as_json: bool) -> None:
    from cai.cli.progress import show_bars, show_lines

    if as_json:
        for event in events:
            print_json(dataclasses.asdict(event))
        return
    last = show_bars(events) if sys.stdout.isatty() else show_lines(events)
    if last is not None and last.kind == "run_finished":
        _say_result(order, last.data)


def _say_result(order: "Order", told: Mapping[str, object]) -> None:
    from cai.pipeline.alone_end import words_of

    counts, rejects = cast(Mapping[str, int], told["counts"]), cast(Mapping[str, int], told["rejects"])
    metrics, words = cast(Mapping[str, list[float]], told["metrics"]), words_of(order)
    screen = console()
    screen.print()
    left_out = f", rejected: {counted(rejects)} (rejects.jsonl names each)" if rejects else ""
    screen.print(f"{counts['outputs']} of {counts['inputs']} rows used in {told['updates']} updates{left_out}")
    shown = table(["", "first", "last"], [1, 2])
    for name, both in metrics.items():
        shown.add_row(words[name], *(f"{value:.4g}" for value in both))
    screen.print(shown)
    screen.print(f"Adapter: {told['adapter']}", soft_wrap=True)
    for command in _next(order):
        screen.print(f"  {command}", soft_wrap=True)


def _next(order: "Order") -> list[str]:
    """Commands that do something with the result."""
    folder = shlex.quote(str(order.out))
    if not order.method.speaks:
        spec = order.spec
        model = shlex.quote(f"{spec.base}@{spec.revision}" if spec.revision else spec.base)
        return [f"cai train ppo --model {model} --data prompts.jsonl --reward {folder}"]
    return [f"cai chat {folder}", f"cai model export {folder} --to merged --out {folder}-merged"]
