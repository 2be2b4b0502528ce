"""`cai prompts`: prompts that a model writes. What is asked and what is kept is `cai.feedback.prompts`' business."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.embedded import knows
from cai.cli.opening import open_either
from cai.cli.progress import PLAIN_SECONDS
from cai.cli.run import stop_on_signals
from cai.cli.screen import complain, console, counted, print_json, table
from cai.errors import CaiError, InputError, Interrupted

if TYPE_CHECKING:
    from cai.feedback.prompts import Making, PromptOrder
    from cai.feedback.topics import Kind, Topic
    from cai.models.protocol import Model

prompts_app = typer.Typer(no_args_is_help=True, help="Have a model write prompts.")


@prompts_app.callback()
def _noun() -> None:
    """Have a model write prompts."""


@prompts_app.command()
def make(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new JSON Lines file.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            help="A folder, a hub id (with @ and its commit), a run (NAME or NAME/STAGE), or PIPELINE.yaml/NAME "
            "for a remote model of that file.",
            show_default=False,
        ),
    ],
    seeds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Topics with seeds in YAML, or a prompt file with columns `kind` and `topic`; topics of our own, "
            "fit for children, if not said.",
            show_default=False,
        ),
    ] = None,
    kinds: Annotated[str, typer.Option(help="Which kinds, with commas between.")] = (
        "harmful,borderline,benign,domain"
    ),
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many of each kind for each topic.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Draws the examples and the words.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")] = False,
) -> None:
    """Have a model write prompts from seeds: harmful ones, borderline twins of these, everyday and expert ones.

    Copies of seeds, near duplicates and what is no request are left out and named beside FILE, in *.rejects.jsonl.

    A kind of a topic is given up after 24 tries in a row that brought nothing new. Ctrl-C keeps what there is.
    """
    from cai.feedback.prompts import PromptOrder, write_prompts

    if out.exists():
        raise InputError(str(out), "is already there", None, "name a new file; nothing is ever overwritten")
    wanted = _kinds(kinds)
    order = PromptOrder(_topics(seeds, wanted), wanted, n, seed, is_request=knows(model))
    with stop_on_signals() as stop, open_either(model, out.with_name(f"{out.stem}.replies"), stop) as opened:
        made, stopped = _made(order, opened, stop)
    rejects = write_prompts(made, out)
    if as_json:
        print_json(_as_json(made, out, rejects))
    else:
        _show(made, out, rejects)
    if stopped:
        left = f"{out} holds {len(made.prompts)} prompts" if made.prompts else "no prompt was kept so far"
        raise Interrupted(f"stopped after {made.asked} tries; {left}")
    if not made.prompts:
        why = f"{made.asked} tries brought no prompt that could be kept ({counted(made.reasons)})"
        raise CaiError(f"{model}: {why}; {rejects} says why each, and a larger model may do better")


def _made(order: "PromptOrder", model: "Model", stop: Callable[[], bool]) -> "tuple[Making, bool]":
    """What was made, and whether it was stopped before its end."""
    from cai.feedback.prompts import make_prompts

    rounds = make_prompts(order, model)
    making = next(rounds)
    wanted, said = sum(cell.wanted for cell in making.cells), time.monotonic()
    try:
        for _ in rounds:
            if time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                complain(f"{len(making.prompts)} of {wanted} prompts in {making.asked} tries")
            if stop():
                return making, True
    except Interrupted:
        return making, True
    return making, False


def _kinds(text: str) -> "tuple[Kind, ...]":
    from cai.feedback.topics import KINDS

    asked = [word.strip() for word in text.split(",") if word.strip()]
    if wrong := [word for word in asked if word not in KINDS] or ([] if asked else [text]):
        raise InputError("--kinds", "there is no such kind", wrong[0], f"known: {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in asked)


def _topics(seeds: Path | None, kinds: "tuple[Kind, ...]") -> "tuple[Topic, ...]":
    from cai.feedback.topics import OWN, load_topics, topics_of_seeds

    if seeds is None or seeds.suffix in (".yaml", ".yml"):
        return load_topics(seeds or OWN)
    return topics_of_seeds(seeds, kinds)


def _as_json(made: "Making", out: Path, rejects: Path) -> dict[str, object]:
    cells = [
        {
            "topic": cell.topic.id,
            "kind": cell.kind,
            "wanted": cell.wanted,
            "kept": cell.kept,
            "asked": cell.asked,
            "given_up": cell.given_up,
        }
        for cell in made.cells
    ]
    files = {"file": str(out) if made.prompts else None, "rejects_file": str(rejects)}
    return {**files, "asked": made.asked, "kept": len(made.prompts), "rejects": made.reasons, "topics": cells}


def _show(made: "Making", out: Path, rejects: Path) -> None:
    screen = console()
    shown = table(["topic", "kind", "prompts", "tries", ""], (2, 3))
    for cell in made.cells:
        why = (
            f"given up: nothing new in {cell.dry} tries" if cell.asked else "given up: no harmful prompt to be twins of"
        )
        counts = f"{cell.kept} of {cell.wanted}", str(cell.asked)
        shown.add_row(cell.topic.id, cell.kind, *counts, why if cell.given_up else "")
    screen.print(shown)
    if made.rejects:
        screen.print(f"left out: {counted(made.reasons)}; why each stands in {rejects}", style="yellow", soft_wrap=True)
    if made.prompts:
        screen.print(str(out), soft_wrap=True)
