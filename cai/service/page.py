"""The page that lists the runs: what stands in each row. How it looks is the template's and the stylesheet's business.

The server renders every row, so the page says everything without a script; the script only keeps it up to date, from
the same values, as text.
"""

from collections import Counter
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cai.service.listing import Told

if TYPE_CHECKING:
    import jinja2

STATIC = Path(__file__).parent / "static"
PAGES = Path(__file__).parent / "pages"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_ORDER = ("running", "queued", "waiting", "done", "failed", "cancelled", "interrupted")
_BLANK: Told = {"id": "", "state": "", "when": "", "report": None, "now": "", "stages": [], "error": ""}


def render(runs: list[Told], address: str) -> str:
    template = _environment().get_template("runs.html.j2")
    return template.render(runs=[_row(run) for run in runs], blank=_BLANK, summary=summary(runs), address=address)


def summary(runs: list[Told]) -> str:
    """`1 running, 4 done`."""
    counts = Counter(str(run["state"]) for run in runs)
    return ", ".join(f"{counts[state]}\N{NO-BREAK SPACE}{state}" for state in _ORDER if counts[state]) or "No runs"


def _row(run: Told) -> Told:
    updated, stages = run["updated"], run["stages"]
    assert isinstance(updated, float) and isinstance(stages, list), run
    when = datetime.fromtimestamp(updated, UTC).isoformat(timespec="seconds")
    told = [{**stage, "told": _count(stage)} for stage in stages]
    return {**run, "when": when, "stages": told, "now": _now(str(run["state"]), told)}


def _count(stage: Told) -> str:
    if stage["state"] == "done":
        counts = stage["counts"]
        return str(counts.get("outputs", "")) if isinstance(counts, dict) else ""
    return f"{stage['done']} of {stage['total']}" if stage["total"] else ""


def _now(state: str, stages: list[Told]) -> str:
    """What the run is at."""
    if state == "queued":
        return "waits for the device"
    if state in ("interrupted", "cancelled"):
        return "starting it again goes on from here"
    current = next((stage for stage in stages if stage["state"] == "running"), None)
    if current is None:
        return "loads the model" if state == "running" and not any(s["state"] == "done" for s in stages) else ""
    return f"{current['kind']}: {current['told'] or 'begins'}"


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
