"""`cai revise`: one prompt through answer, critique and revision, on the screen, to see what a principle does."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cai.cli.embedded import note_if_unknown
from cai.cli.opening import open_named
from cai.cli.screen import console, marked_changes, print_json, word_changes
from cai.errors import CaiError

if TYPE_CHECKING:
    from cai.constitution.model import Constitution
    from cai.records import Revision


def revise(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What the model is asked.", show_default=False)],
    constitution: Annotated[Path, typer.Option(help="The constitution's file.", show_default=False)],
    model: Annotated[str, typer.Option(help="`tiny`, a folder, a hub id, or a run: NAME or NAME/STAGE.")] = "tiny",
    revision: Annotated[str | None, typer.Option(help="The commit of a hub id.", show_default=False)] = None,
    rounds: Annotated[int, typer.Option(min=1, max=16, help="How often it criticises and revises.")] = 1,
    style: Annotated[Literal["chat", "paper"], typer.Option(help="As a chat, or by the paper's plain text.")] = "chat",
    seed: Annotated[int, typer.Option(min=0, help="Draws the principles and the words.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="The record, as a run would write it.")] = False,
) -> None:
    """Answer one prompt, criticise the answer by a drawn principle, and revise it."""
    from cai.constitution.model import load_constitution
    from cai.feedback.revise import ReviseSettings
    from cai.feedback.revise import revise as revise_prompts
    from cai.records import as_dict, new_prompt

    loaded = load_constitution(constitution)
    note_if_unknown(model, prompt)
    view = open_named(model, revision)
    outcome = revise_prompts([new_prompt(prompt)], loaded, view, view, ReviseSettings(rounds, style=style), seed)
    if outcome.rejects:
        reject = outcome.rejects[0]
        raise CaiError(f"the model gave no {reject.reason}: {reject.detail}; try another --seed")
    record = outcome.records[0]
    if as_json:
        print_json({"id": record.id, **as_dict(record)})
    else:
        _show(record, loaded, style)


def _show(record: "Revision", constitution: "Constitution", style: str) -> None:
    from cai.feedback.demonstrations import worked_critiques

    screen = console()
    if style == "paper":
        examples = len(worked_critiques(constitution))
        advice = "" if examples else "; add some (examples: critiques), from which a model learns the form"
        screen.print(f"Plain text behind {examples} worked examples{advice}\n", style="dim")
    screen.print("Answer", style="bold")
    screen.print(record.initial)
    before = record.initial
    for number, done in enumerate(record.rounds, 1):
        principle = constitution.principle(done.principle_id)
        screen.print(f"\nRound {number}: {done.principle_id}", style="bold")
        screen.print(" ".join(principle.critique.split()), style="dim")
        screen.print("\nCritique", style="bold")
        screen.print(done.critique)
        screen.print("\nRevision", style="bold")
        if not done.changed:
            screen.print("left as it was", style="dim")
        elif sys.stdout.isatty():
            screen.print(word_changes(before, done.revision))
        else:
            screen.print(marked_changes(before, done.revision))
        before = done.revision
