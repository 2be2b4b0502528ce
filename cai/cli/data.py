"""`cai data import|export|filter|check|stats|card|sample`: preference data in and out, and what is in it.

What a path may be (a run, a folder, a file) is `store.dataset`'s business; layouts are `store.formats`'.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cai.cli.data_screen import say_export, say_filter, say_import, say_sample, say_stats, say_stumbles
from cai.cli.screen import console, print_json
from cai.errors import InputError

if TYPE_CHECKING:
    from cai.store.dataset import DataSet, Row
    from cai.store.formats.llama_factory import Style
    from cai.store.formats.trl import Form as TrlForm

data_app = typer.Typer(no_args_is_help=True, help="Import, export, filter and inspect preference data.")

Form = Literal["explicit", "standard", "implicit", "unpaired", "sharegpt", "alpaca"]
FILTERS = ("exact-duplicates", "near-duplicates", "bursts", "private-data", "poor-text")
Target = Literal["hh", "trl", "openai", "llama-factory", "jsonl", "parquet"]
Layout = Literal[Target, "llmbar", "hhh"]
Sorts = Literal["preferences", "answers", "unpaired"]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value, for programs.")]
Source = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="A run, a folder that `cai data` made, or a file.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", help="A new folder.", show_default=False)]
As = Annotated[
    Layout | None, typer.Option("--as", help="The file's layout; told from its rows if not said.", show_default=False)
]
OfSort = Annotated[
    Sorts | None, typer.Option("--rows", help="Pairs, answers, or labelled answers.", show_default=False)
]


@data_app.command("import")
def import_command(
    file: Annotated[
        Path, typer.Argument(help="JSON Lines, a JSON array, Parquet or CSV; gzip too.", show_default=False)
    ],
    out: Out,
    layout: As = None,
    as_json: AsJson = False,
) -> None:
    """Read a file of another tool into a folder of records. A wrong row is named and left out."""
    from cai.store.formats.importing import import_file

    done = import_file(file, out, _layout(layout))
    if as_json:
        print_json({**dataclasses.asdict(done), "folder": str(done.folder)})
    else:
        say_import(done)


@data_app.command("export")
def export_command(
    data: Source,
    to: Annotated[Target, typer.Option("--to", help="Whose layout to write.", show_default=False)],
    out: Out,
    rows: OfSort = None,
    form: Annotated[
        Form | None,
        typer.Option(help="TRL: explicit if not said; LLaMA-Factory: sharegpt if not said.", show_default=False),
    ] = None,
    test_share: Annotated[float, typer.Option(min=0, max=0.99, help="Share of prompts for a test split.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write data as another tool loads it, with a card. Rows that do not fit are named and left out."""
    from cai.files import write_atomic
    from cai.store.data_card import data_card
    from cai.store.data_stats import stats_of
    from cai.store.formats.exporting import KINDS, ExportSettings, export

    found = _open(data, rows)
    # Ours is the one layout that can say what a tie is.
    kinds = KINDS if to == "jsonl" else ("preferred",)
    style: Style = "alpaca" if form == "alpaca" else "sharegpt"
    laid_out: TrlForm = "explicit"
    if form is not None and form != "sharegpt" and form != "alpaca":  # noqa: PLR1714 - narrows the type
        laid_out = form
    done = export(found, out, ExportSettings(to, laid_out, style, kinds, test_share))
    write_atomic(out / "README.md", data_card(found, stats_of(found.rows()), done))
    if as_json:
        print_json({**dataclasses.asdict(done), "folder": str(done.folder)})
    else:
        say_export(done)


@data_app.command("filter")
def filter_command(
    data: Source,
    out: Out,
    test: Annotated[Path | None, typer.Option(help="Data that must not be trained on.", show_default=False)] = None,
    near_duplicates: Annotated[
        float, typer.Option("--near-duplicates", min=0.5, max=1, help="How much of their words rows may share.")
    ] = 0.8,
    without: Annotated[
        list[str] | None, typer.Option(help=f"Leave out one of {', '.join(FILTERS)}; may be given again.")
    ] = None,
    balance_lengths: Annotated[bool, typer.Option(help="As many longer as shorter chosen answers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take out duplicates, repeated phrases, private data, poor text and test questions; say what and why."""
    from cai.feedback.filters.folder import filter_into
    from cai.feedback.filters.settings import FilterSettings

    off = without or []
    if unknown := set(off) - set(FILTERS):
        raise InputError("--without", "there is no such filter", min(unknown), f"known: {', '.join(FILTERS)}")
    settings = FilterSettings(
        exact_duplicates="exact-duplicates" not in off,
        near_duplicates=None if "near-duplicates" in off else near_duplicates,
        bursts=None if "bursts" in off else FilterSettings().bursts,
        private_data="private-data" not in off,
        poor_text="poor-text" not in off,
        balance_lengths=balance_lengths,
    )
    report = filter_into(_open(data), out, settings, _open(test) if test else None)
    if as_json:
        print_json({"folder": str(out), **dataclasses.asdict(report)})
    else:
        say_filter(report, out)


@data_app.command("check")
def check_command(data: Source, layout: As = None, rows: OfSort = None, as_json: AsJson = False) -> None:
    """Say what a reader or a trainer would stumble over. Exits with 1 where rows cannot be read."""
    from cai.store.data_check import check_rows

    stumbles = check_rows(_open(data, rows, layout).rows())
    if as_json:
        print_json([dataclasses.asdict(stumble) for stumble in stumbles])
    else:
        say_stumbles(stumbles)
    if any(stumble.what == "unreadable row" for stumble in stumbles):
        raise typer.Exit(1)


@data_app.command("stats")
def stats_command(data: Source, layout: As = None, rows: OfSort = None, as_json: AsJson = False) -> None:
    """Count rows, prompts, kinds, lengths, probabilities, principles and models."""
    from cai.store.data_stats import stats_of

    found = _open(data, rows, layout)
    stats = stats_of(found.rows())
    if as_json:
        print_json({"layout": found.layout, "sort": found.sort, **stats.plain})
    else:
        say_stats(found, stats)


@data_app.command("card")
def card_command(
    data: Source,
    rows: OfSort = None,
    license_name: Annotated[str, typer.Option("--license", help="The data's licence.")] = "other",
    judge_card: Annotated[
        Path | None, typer.Option(help="A judge's card.json, or Markdown, to set in.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the data set's card in Markdown: counts, lineage, the constitution, known limits."""
    from cai.store.data_card import CardText, data_card
    from cai.store.data_stats import stats_of

    found = _open(data, rows)
    text = CardText(license_name, _judge_told(judge_card) if judge_card else "")
    card = data_card(found, stats_of(found.rows()), None, text)
    if as_json:
        print_json({"card": card})
    else:
        console().print(card, end="")


@data_app.command("sample")
def sample_command(
    data: Source,
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many rows.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Draws the rows.")] = 0,
    layout: As = None,
    rows: OfSort = None,
    as_json: AsJson = False,
) -> None:
    """Show rows drawn at random. What could steer a terminal is shown as an escape."""
    from cai.records import Reject, as_dict
    from cai.seeds import derive

    drawn: list[tuple[int, Row]] = []
    for row in _open(data, rows, layout).rows():
        if not isinstance(row, Reject):
            drawn.append((derive("sample", seed, row.id), row))
            if len(drawn) >= 2 * n + 100:
                drawn = sorted(drawn, key=lambda each: each[0])[:n]
    chosen = [row for _, row in sorted(drawn, key=lambda each: each[0])[:n]]
    if as_json:
        for each in chosen:
            print_json(as_dict(each))
    else:
        say_sample(chosen)


def _judge_told(path: Path) -> str:
    """A card that `cai judge card` wrote, or somebody's own words in Markdown."""
    from cai.store.judge_told import judge_told, read_card

    if path.suffix == ".json":
        return judge_told(read_card(path))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), f"cannot be read ({error})", None, "name a card.json or a Markdown file") from None


def _layout(name: str | None) -> str:
    from cai.store.formats.layouts import ALIASES

    return ALIASES.get(name, name) if name else ""


def _open(path: Path, rows: Sorts | None = None, layout: str | None = None) -> "DataSet":
    from cai.store.dataset import open_data

    return open_data(path, rows, _layout(layout))
