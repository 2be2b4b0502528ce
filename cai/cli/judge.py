"""`cai judge card|label`: how far a judge can be trusted, and a person's own labels to hold it against.

What is measured lives in `feedback.judge_card`; this file asks and prints.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.opening import open_either
from cai.cli.screen import complain, console, print_json
from cai.errors import GateRefused, InputError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cai.constitution.model import Constitution
    from cai.evaluate.card_page import Line
    from cai.feedback.judge import JudgeSettings
    from cai.feedback.judge_card import JudgeCard, Judged, Known
    from cai.feedback.outcome import Outcome
    from cai.pipeline.configs import JudgeStageConfig
    from cai.pipeline.labelled import LabelledSet

judge_app = typer.Typer(no_args_is_help=True, help="Measure a judge, and label pairs by hand.")

_TOGETHER = 64
"""Pairs judged together: it decides batches, and so the last digits."""
_ELSEWHERE, _REPLIES = Path("runs") / "judge-card", "replies"
"""Where a remote judge's replies are kept: beside the card, or there if none is written."""

_ELSEWHERE_SAID = ("data", "judge", "require", "chunk")
"""What a stage has settings for, and this command options of its own, or no use."""

Data = Annotated[
    list[str],
    typer.Option(
        "--data",
        help="Labelled pairs: a file in any layout that holds pairs, or `tiny/tune`, `tiny/test`; may be repeated.",
        show_default=False,
    ),
]


@judge_app.command("card")
def card(
    data: Data,
    constitution: Annotated[Path, typer.Option(help="The constitution's file.", show_default=False)],
    judge: Annotated[
        str, typer.Option(help="`tiny`, a folder, a hub id (ID@COMMIT), a run, or FILE.yaml/NAME for a remote model.")
    ] = "tiny",
    out: Annotated[Path | None, typer.Option("--out", help="A new folder for the card.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="As in a pipeline's stage `judge`: `limit=500`, `style=paper`."
        ),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="MEASURE=BOUND", help="Exit with 3 where the judge falls short."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")] = False,
) -> None:
    """Judge pairs of which the better answer is known, and say how often, how surely and how evenly it is right."""
    from cai.constitution.model import load_constitution
    from cai.evaluate.card_page import card_as_json, card_headline, card_lines, write_card
    from cai.feedback.judge_card import shortfalls
    from cai.pipeline.judging import judge_settings

    bounds = _bounds(require or [])
    config = _config(settings or [])
    loaded = load_constitution(constitution)
    if out is not None and out.exists() and any(path.name != _REPLIES for path in out.iterdir()):
        raise InputError(str(out), "holds something already", None, "name a new folder")
    sets = {name: _labelled(name, config.limit, len(data) > 1, loaded) for name in dict.fromkeys(data)}
    measured = _measured(sets, loaded, judge, (out or _ELSEWHERE) / _REPLIES, judge_settings(config))
    page = None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        page = write_card(out, measured, judge, ", ".join(sets))
    if as_json:
        print_json({"page": str(page) if page else None, **card_as_json(measured, judge, ", ".join(sets))})
    else:
        console().print(card_headline(measured), style="bold")
        _show(card_lines(measured))
        if page:
            console().print(f"The whole card: {page}")
    if lacking := shortfalls(measured, bounds):
        raise GateRefused(f"judge '{judge}' falls short: {'; '.join(lacking)}")


@judge_app.command("label")
def label(
    data: Data,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the labels go.", show_default=False)],
    judge: Annotated[
        str | None, typer.Option(help="A judge to compare with, named as for `card`.", show_default=False)
    ] = None,
    constitution: Annotated[Path | None, typer.Option(help="What that judge judges by.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most pairs of each set.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Draws the order, and which answer stands first.")] = 0,
) -> None:
    """Label pairs blind, one after the other; what was labelled before is kept, and agreement is told at the end.

    The file holds pairs again: it can be given to `cai judge card`, to `cai data import`, or to another person.
    """
    from cai.cli.labelling import agreement, label_pairs, labelled_before
    from cai.constitution.model import load_constitution
    from cai.feedback.judge import JudgeSettings

    if (judge is None) != (constitution is None):
        raise InputError("--judge", "a judge needs a constitution, and a constitution a judge", None, "give both")
    loaded = load_constitution(constitution) if constitution else None
    sets = [_labelled(name, limit, len(data) > 1, loaded).pairs for name in dict.fromkeys(data)]
    pairs = list({pair.id: pair for found in sets for pair in found}.values())
    before = labelled_before(out)
    waiting = [pair for pair in pairs if pair.id not in before]
    complain(f"{len(pairs) - len(waiting)} of {len(pairs)} labelled; 1 or 2 is better, t a tie, s skips, q ends")
    label_pairs(waiting, out, seed)
    labels = labelled_before(out)
    for line in agreement(pairs, labels):
        console().print(line)
    if judge is not None and loaded is not None:
        decided = [pair for pair in pairs if labels.get(pair.id) in ("better", "worse")]
        outcome = _judged(decided, loaded, judge, _ELSEWHERE / _REPLIES, JudgeSettings(), seed)
        named = {row.id: row.p > 0.5 for row in outcome.records if row.p != 0.5}
        for line in agreement([pair for pair in decided if pair.id in named], labels, named):
            console().print(line)
        if len(named) < len(decided):
            console().print(f"The judge named no answer in {len(decided) - len(named)} of {len(decided)} pairs.")


def _labelled(name: str, limit: int, several: bool, constitution: "Constitution | None") -> "LabelledSet":
    from cai.pipeline.labelled import embedded_pairs, labelled_pairs
    from cai.pipeline.prompts import EMBEDDED

    path = Path(name)
    if name in EMBEDDED:
        return embedded_pairs(name.removeprefix("tiny/"), limit, constitution)
    if not path.is_file():
        raise InputError("--data", "there is no such file", name, f"the embedded sets are {', '.join(EMBEDDED)}")
    return labelled_pairs(path, limit, path.name.partition(".")[0] if several else "")


def _measured(
    sets: "dict[str, LabelledSet]",
    constitution: "Constitution",
    judge: str,
    replies: Path,
    settings: "JudgeSettings",
) -> "JudgeCard":
    from collections import Counter

    from cai.cli.opening import names_of
    from cai.errors import CaiError
    from cai.feedback.judge_card import STAGE, judge_card
    from cai.feedback.outcome import first_of_each

    lost = [reject for found in sets.values() for reject in found.rejects]
    pairs = first_of_each([pair for found in sets.values() for pair in found.pairs], STAGE, lost)
    outcome = _judged(pairs, constitution, judge, replies, settings)
    rejects = Counter(reject.reason for reject in [*lost, *outcome.rejects])
    if not outcome.records:
        told = ", ".join(f"{reason} ({count})" for reason, count in rejects.items())
        raise CaiError(f"judge '{judge}': none of {len(pairs)} pairs came to a judgement: {told}")
    return judge_card(outcome.records, rejects, names_of(judge))


def _judged(
    pairs: "Sequence[Known]",
    constitution: "Constitution",
    judge: str,
    replies: Path,
    settings: "JudgeSettings",
    seed: int = 0,
) -> "Outcome[Judged]":
    """Part by part, as a run would, and said how far it is."""
    from cai.cli.run import stop_on_signals
    from cai.feedback.judge_card import measure
    from cai.feedback.outcome import Outcome

    whole: Outcome[Judged] = Outcome()
    with stop_on_signals() as stop, open_either(judge, replies, stop) as model:
        for start in range(0, len(pairs), _TOGETHER):
            if stop():
                raise Interrupted(f"stopped after {start} of {len(pairs)} pairs; the same command begins again")
            part = measure(pairs[start : start + _TOGETHER], constitution, model, settings, seed)
            whole.records.extend(part.records)
            whole.rejects.extend(part.rejects)
            complain(f"{min(start + _TOGETHER, len(pairs))} of {len(pairs)} pairs")
    return whole


def _config(settings: list[str]) -> "JudgeStageConfig":
    """As a pipeline's stage would read them, so that the same words are refused in the same way."""
    from cai.constitution.model import nearest
    from cai.pipeline.configs import JudgeStageConfig
    from cai.pipeline.overrides import with_overrides
    from cai.strict_yaml import Document, validated

    document = with_overrides(Document("--set", {}), settings)
    assert isinstance(document.data, dict), settings
    known = [name for name in JudgeStageConfig.model_fields if name not in _ELSEWHERE_SAID]
    for name in document.data:
        if name not in known:
            raise InputError("--set", "there is no such setting", name, nearest(name, known))
    return validated(document, JudgeStageConfig)


def _bounds(require: list[str]) -> dict[str, float]:
    from cai.pipeline.configs import Requirements
    from cai.strict_yaml import Document, validated

    given = {name: value for name, _, value in (text.partition("=") for text in require)}
    return validated(Document("--require", given), Requirements).model_dump(exclude_none=True)


def _show(lines: "list[Line]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for line in lines:
        table.add_row(line.name, line.value, Text(line.beside, style="dim"))
    console().print(table)
