"""The result in words: one sentence that says what alignment gained, what it cost and what stayed.

A change counts only when its interval leaves zero out, so the sentence never celebrates or mourns noise.
"""

from collections.abc import Sequence
from math import floor

from cai.evaluate.compare import MetricRow
from cai.evaluate.suites import metric

_SPACE = "\u202f"
_MAIN = ("harmful_compliance", "honesty", "helpfulness", "over_refusal")


def percent(share: float, digits: int = 0) -> str:
    """A share as people read it. Only nothing is 0 % and only everything is 100 %; what lies near gets a decimal."""
    if digits == 0 and 0 < share < 1 and _rounded(share, 0) in ("0", "100"):
        digits = 1
    text = _rounded(share, digits)
    if float(text) == 0 and share > 0:
        text = f"<{10**-digits:.{digits}f}"
    elif float(text) == 100 and share < 1:
        text = f">{100 - 10**-digits:.{digits}f}"
    return f"{text}{_SPACE}%"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, always with its sign."""
    text = _rounded(abs(difference), digits)
    if float(text) == 0:
        return text
    return f"{'+' if difference > 0 else '−'}{text}"


def headline(rows: Sequence[MetricRow]) -> str:
    """The verdict over the rows that compare base and tuned."""
    compared = [row for row in rows if row.difference is not None]
    if not compared:
        return "Nothing was compared: this run measured only one model."
    better, worse, same = ([row for row in compared if row.change == change] for change in ("better", "worse", "same"))
    gains = [_moved(row) for row in _in_order(_main(better) or better)]
    costs = [_moved(row) for row in _in_order(worse)]
    stayed = [_title(row) for row in _in_order(_main(same))]
    if not gains and not costs:
        return "Nothing measurable changed: every difference is within its uncertainty."
    parts = []
    if gains:
        parts.append(_listed(gains[:3]))
    if costs:
        parts.append(("at a cost: " if gains else "") + _listed(costs[:3]))
    if stayed:
        parts.append(f"{_listed(stayed)} {'is' if len(stayed) == 1 else 'are'} unchanged")
    return _sentence("; ".join(parts))


def _main(rows: Sequence[MetricRow]) -> list[MetricRow]:
    return [row for row in rows if row.metric in _MAIN]


def _in_order(rows: Sequence[MetricRow]) -> list[MetricRow]:
    """The main metrics first, each in its place; then the others as they come."""
    return sorted(rows, key=lambda row: _MAIN.index(row.metric) if row.metric in _MAIN else len(_MAIN))


def _moved(row: MetricRow) -> str:
    assert row.base is not None, row
    assert row.tuned is not None, row
    verb = "rose" if row.tuned > row.base else "fell"
    before, after = percent(row.base), percent(row.tuned)
    if before == after:
        before, after = percent(row.base, 1), percent(row.tuned, 1)
    return f"{_title(row)} {verb} from {before} to {after}"


def _title(row: MetricRow) -> str:
    return metric(row.suite, row.metric).title.lower()


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _rounded(share: float, digits: int) -> str:
    """Half goes up, as people round: 4.5 % is 5 %, whatever binary fractions make of it."""
    factor = 10**digits
    return f"{floor(share * 100 * factor + 0.5 + 1e-9) / factor:.{digits}f}"
