"""`cai constitution lint|show|diff|import`: what a constitution says, what is wrong with it, and what changed.

Exit codes of `lint`: 0 nothing worse than a warning, 1 an error was found (with `--strict`, a warning too), 2 a file
cannot be used. Of `diff`: 0, or with `--strict` 1 when the version did not take the step that the changes call for.
How a constitution is judged stands in `cai.constitution`; this file asks and prints.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.screen import console, print_json

if TYPE_CHECKING:
    from cai.constitution.diff import ConstitutionDiff, Words
    from cai.constitution.findings import Finding
    from cai.constitution.model import Constitution, Principle
    from cai.constitution.released import Released

constitution_app = typer.Typer(no_args_is_help=True, help="Check, read and compare constitutions.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")]
ReleasedFile = Annotated[
    Path | None, typer.Option("--released", help="Recorded releases; default: released.yaml beside the file.")
]

_STYLES = {"error": "bold red", "warning": "yellow", "advice": "cyan", "removed": "red", "added": "green", "same": ""}


@constitution_app.command("lint")
def lint_files(
    files: Annotated[list[Path], typer.Argument(help="Constitutions to check.")],
    released: ReleasedFile = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", help="A rule to leave out; may be repeated.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong or unwise in a constitution, by line, with advice."""
    from cai.constitution.lint import lint
    from cai.constitution.model import load_constitution
    from cai.constitution.released import FILE_NAME, load_released

    found: dict[str, list[Finding]] = {}
    for file in files:
        if file.name == FILE_NAME:  # `lint constitutions/*.yaml` names it too
            load_released(file)
            found[str(file)] = []
        else:
            found[str(file)] = lint(load_constitution(file), _released(file, released), ignore or ())
    counts = {s: sum(f.severity == s for fs in found.values() for f in fs) for s in ("error", "warning", "advice")}
    if as_json:
        listed = [{"file": name, "findings": [vars(f) for f in findings]} for name, findings in found.items()]
        print_json({"files": listed, "counts": counts})
    else:
        _print_findings(found, counts)
    if counts["error"] or (strict and counts["warning"]):
        raise typer.Exit(1)


@constitution_app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="The constitution to read.")],
    released: ReleasedFile = None,
    as_json: AsJson = False,
) -> None:
    """Print the principles, their shares of the weight, and the digests."""
    from cai.constitution.model import load_constitution

    constitution = load_constitution(file)
    state = _release_state(constitution, _released(file, released))
    if as_json:
        print_json(_as_json(constitution, state))
    else:
        _print_constitution(constitution, state)


@constitution_app.command("diff")
def diff(
    old: Annotated[Path, typer.Argument(help="The version before.")],
    new: Annotated[Path, typer.Argument(help="The version after.")],
    strict: Annotated[bool, typer.Option("--strict", help="Fail when the version takes too small a step.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two versions, and which step of the version it calls for."""
    from cai.constitution.diff import compare
    from cai.constitution.model import load_constitution

    changes = compare(load_constitution(old), load_constitution(new))
    if as_json:
        print_json(_diff_json(changes))
    else:
        _print_diff(changes)
    if strict and changes.warning:
        raise typer.Exit(1)


@constitution_app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="The paper's JSON, llm-swarm's JSON, or Markdown.")],
    out: Annotated[Path, typer.Option("--out", help="The constitution's new file.", show_default=False)],
    name: Annotated[str, typer.Option("--id", help="The constitution's id; the file's name if not said.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a constitution from principles in another layout, and say what was changed."""
    from cai.constitution.importers import import_constitution
    from cai.constitution.lint import lint
    from cai.errors import InputError
    from cai.files import write_atomic

    if out.exists():
        raise InputError(str(out), "exists already", None, "name a new file")
    made = import_constitution(file, name)
    write_atomic(out, made.text)
    findings = lint(made.constitution)
    counts = {s: sum(f.severity == s for f in findings) for s in ("error", "warning", "advice")}
    if as_json:
        count = len(made.constitution.principles)
        print_json({"file": str(out), "layout": made.layout, "principles": count, "notes": made.notes, "lint": counts})
        return
    _say(f"{out}: {_count(len(made.constitution.principles), 'principle')} from {made.layout}")
    for note in made.notes:
        _say(f"  {note}")
    _say(f"`cai constitution lint {out}` has {counts['error']} errors and {counts['warning']} warnings")


def _released(file: Path, given: Path | None) -> "Released":
    from cai.constitution.released import load_released, released_beside

    return released_beside(file) if given is None else load_released(given)


def _release_state(constitution: "Constitution", released: "Released") -> str:
    from cai.constitution.released import what_changed

    if released.digests(constitution) is None:
        return "not released"
    told = what_changed(constitution, released)
    return f"released, but {told}" if told else "released"


def _say(*parts: str | tuple[str, str]) -> None:
    from rich.text import Text

    console().print(Text.assemble(*parts))


def _count(number: int, singular: str, plural: str = "") -> str:
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _print_findings(found: "dict[str, list[Finding]]", counts: dict[str, int]) -> None:
    for name, findings in found.items():
        for finding in findings:
            _say(
                (f"{name}:{finding.line}: ", "bold"),
                (finding.severity, _STYLES[finding.severity]),
                f" [{finding.rule}] {finding.message}; {finding.advice}",
            )
    total = [_count(counts["error"], "error"), _count(counts["warning"], "warning"), f"{counts['advice']} of advice"]
    _say(f"{_count(len(found), 'file')}: " + (", ".join(total) if any(counts.values()) else "nothing to say"))


def _print_constitution(constitution: "Constitution", state: str) -> None:
    from cai.constitution.released import entry_for

    _say((f"{constitution.id} {constitution.version}", "bold"), f"  {constitution.title}")
    _say(f"behaviour  {constitution.behaviour_digest}")
    _say(f"release    {constitution.release_digest}")
    examples = len(constitution.critiques) + len(constitution.comparisons)
    tests = sum(len(principle.tests) for principle in constitution.principles)
    _say(
        f"{_count(len(constitution.principles), 'principle')}, {_count(tests, 'test')}, "
        f"{_count(examples, 'example')}, {state}"
    )
    shares = _shares(constitution)
    for principle in sorted(constitution.principles, key=lambda principle: principle.line):
        _say("")
        _say((principle.id, "bold"), f"  weight {principle.weight:g}, {_share_told(shares[principle.id])}")
        for name in ("critique", "revision", "preference"):
            if text := principle.text(name):
                _say((f"  {name:<11}", "dim"), " ".join(text.split()))
        _say(("  tests      ", "dim"), str(len(principle.tests)))
    if state == "not released":
        _say("")
        _say("To record this version as released, add to released.yaml beside it:")
        _say(entry_for(constitution).rstrip())


def _shares(constitution: "Constitution") -> dict[str, dict[str, float]]:
    """Each principle's share of the weight in every use that it serves."""
    from cai.constitution.model import USES

    by_use = {use: constitution.shares(use) for use in USES}
    return {p.id: {u: found[p.id] for u, found in by_use.items() if p.id in found} for p in constitution.principles}


def _share_told(shares: dict[str, float]) -> str:
    if len(shares) == 2 and len(set(shares.values())) == 1:
        return f"share {next(iter(shares.values())):.3f}"
    return ", ".join(f"share {share:.3f} where principles {use}" for use, share in shares.items())


def _as_json(constitution: "Constitution", state: str) -> dict[str, object]:
    from cai.records import as_dict

    shares = _shares(constitution)

    def plain(principle: "Principle") -> dict[str, object]:
        return {
            "id": principle.id,
            "line": principle.line,
            "weight": principle.weight,
            "shares": shares[principle.id],
            "critique": principle.critique,
            "revision": principle.revision,
            "preference": principle.preference,
            "tests": [as_dict(test) for test in principle.tests],
        }

    return {
        "id": constitution.id,
        "version": constitution.version,
        "title": constitution.title,
        "file": constitution.path,
        "state": state,
        "behaviour_digest": constitution.behaviour_digest,
        "release_digest": constitution.release_digest,
        "principles": [plain(principle) for principle in constitution.principles],
        "examples": {
            "critiques": [as_dict(example) for example in constitution.critiques],
            "comparisons": [as_dict(example) for example in constitution.comparisons],
        },
    }


def _diff_json(changes: "ConstitutionDiff") -> dict[str, object]:
    return {
        "old_version": changes.old_version,
        "new_version": changes.new_version,
        "step": changes.step,
        "warning": changes.warning,
        "id_changed": changes.id_changed,
        "title_changed": changes.title_changed,
        "examples_changed": changes.examples_changed,
        "tests_changed": list(changes.tests_changed),
        "added": [principle.id for principle in changes.added],
        "removed": [principle.id for principle in changes.removed],
        "reworded": [
            {"principle": r.principle_id, "text": r.field, "words": [vars(words) for words in r.words]}
            for r in changes.reworded
        ],
        "reweighted": [
            {
                "principle": r.principle_id,
                "old": r.old,
                "new": r.new,
                "old_share": r.old_share,
                "new_share": r.new_share,
            }
            for r in changes.reweighted
        ],
    }


def _print_diff(changes: "ConstitutionDiff") -> None:
    for principle in changes.removed:
        _say(("removed    ", _STYLES["removed"]), principle.id)
    for principle in changes.added:
        _say(("added      ", _STYLES["added"]), principle.id)
    for reworded in changes.reworded:
        _say(("reworded   ", "yellow"), f"{reworded.principle_id}, {reworded.field}: ", *_marked(reworded.words))
    for r in changes.reweighted:
        told = f"{r.principle_id}: {r.old:g} to {r.new:g}, share {r.old_share:.3f} to {r.new_share:.3f}"
        _say(("reweighted ", "yellow"), told)
    if changes.examples_changed:
        _say(("changed    ", "yellow"), "the examples")
    for name in changes.tests_changed:
        _say(("changed    ", "yellow"), f"the tests of {name}")
    if changes.title_changed:
        _say(("changed    ", "yellow"), "the title")
    step = f"calls for a {changes.step} step" if changes.step != "none" else "nothing changed"
    _say(f"{changes.old_version} to {changes.new_version}: {step}")
    if changes.warning:
        _say(("warning: ", _STYLES["warning"]), changes.warning)


def _marked(words: "tuple[Words, ...]") -> list[str | tuple[str, str]]:
    """Word differences marked as git marks them, and coloured where there are colours."""
    marks = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
    shown: list[str | tuple[str, str]] = []
    for run in words:
        start, end = marks[run.sort]
        shown += [" " if shown else "", (f"{start}{run.text}{end}", _STYLES[run.sort])]
    return shown
