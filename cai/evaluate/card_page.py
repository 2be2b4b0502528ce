"""A judge's card as files: `card.json` for programs, `card.html` for people, and its lines for the terminal."""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from cai.evaluate.charts import Mark, dot_strip, reliability_chart
from cai.evaluate.page import environment
from cai.evaluate.verdict import percent
from cai.feedback.judge_card import BINS, JudgeCard, Part, Share
from cai.files import write_atomic
from cai.records import as_dict
from cai.store.judge_told import CARD

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One fact of a card, as text: what is measured, the value, and what it is to be held against."""

    name: str
    value: str
    beside: str = ""


@dataclass(frozen=True, slots=True)
class PartView:
    """A subset or a principle: its strip has the judge and the rule of length."""

    name: str
    n: int
    accuracy: str
    longer: str
    consistency: str
    first_position: str
    strip: str


def write_card(folder: Path, card: JudgeCard, judge: str, data: str) -> Path:
    """Writes both files, the page last, and returns where it is."""
    told = card_as_json(card, judge, data)
    write_atomic(folder / CARD, json.dumps(told, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    page = folder / "card.html"
    write_atomic(page, render_card(card, judge, data))
    return page


def card_as_json(card: JudgeCard, judge: str, data: str) -> dict[str, object]:
    """The card as plain values, with null for every number that is none: JSON has no other word for it."""
    return {"schema": SCHEMA, "judge": judge, "data": data, **{key: _known(v) for key, v in as_dict(card).items()}}


def render_card(card: JudgeCard, judge: str, data: str) -> str:
    return (
        environment()
        .get_template("card.html.j2")
        .render(
            card=card,
            judge=judge,
            data=data,
            bins=BINS,
            headline=card_headline(card),
            lines=card_lines(card),
            plot=reliability_chart([(part.confidence, part.frequency, part.n) for part in card.reliability]),
            subsets=[_part(part) for part in card.subsets],
            principles=[_part(part) for part in card.principles],
        )
    )


def card_headline(card: JudgeCard) -> str:
    if card.accuracy.low > card.longer_wins:
        return f"The judge is right in {percent(card.accuracy.share, 1)} of the pairs, and better than counting words."
    if card.accuracy.high < 0.5:
        return f"The judge is right in only {percent(card.accuracy.share, 1)} of the pairs: worse than a coin."
    told = percent(card.longer_wins, 1)
    return f"The judge is right in {percent(card.accuracy.share, 1)} of the pairs; the longer answer is in {told}."


def card_lines(card: JudgeCard) -> list[Line]:
    """Everything a card says in one figure each, in the order of importance."""
    lines = [
        Line("Right", _spanned(card.accuracy), f"the longer answer: {percent(card.longer_wins, 1)}"),
        Line("Right in both orders", _spanned(card.both_orders)),
        Line("Names the same answer in both orders", _spanned(card.consistency)),
        Line("Takes what stands first", _spanned(card.first_position), "fair: 50.0 %"),
        Line(
            "Right when the better answer is first, second", f"{_share(card.shown_first)}, {_share(card.shown_second)}"
        ),
        Line("Ties, contradictions", f"{_share(card.ties)}, {_share(card.contradictions)}"),
        Line("No judgement", _share(card.unjudged), _reasons(card)),
        Line("κ with the labels", _figure(card.kappa, ".2f"), _people(card)),
        Line("Calibration error", f"{card.calibration_error:.3f}", f"{BINS} bins of equal mass"),
        Line("Brier score", f"{card.brier:.3f}", "a coin: 0.250"),
        Line("AUROC", _figure(card.auroc, ".3f")),
        Line("Length and probability, Spearman", _figure(card.length_correlation, "+.2f")),
    ]
    if card.own:
        own = f"{percent(card.own.preferred, 1)} of {card.own.n}"
        lines.append(Line("Prefers its own answer", own, f"which is better in {percent(card.own.better, 1)}"))
    if card.calibration:
        c = card.calibration
        told = f"on the other half: error {c.raw.error:.3f} → {c.tempered.error:.3f}, "
        lines.append(
            Line("Temperature", f"{c.temperature:.2f}", f"{told}Brier {c.raw.brier:.3f} → {c.tempered.brier:.3f}")
        )
    return lines


def _known(value: object) -> object:
    match value:
        case dict():
            return {key: _known(each) for key, each in value.items()}
        case list() | tuple():
            return [_known(each) for each in value]
        case float() if not isfinite(value):
            return None
        case _:
            return value


def _figure(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else "–"


def _part(part: Part) -> PartView:
    share = part.accuracy
    marks = [Mark("tuned", share.share, share.low, share.high)]
    marks.append(Mark("base", part.longer_wins, part.longer_wins, part.longer_wins))
    told = f"{part.name}: judge {percent(share.share, 1)}, the longer answer {percent(part.longer_wins, 1)}"
    return PartView(
        part.name,
        share.n,
        percent(share.share, 1),
        percent(part.longer_wins, 1),
        percent(part.consistency.share, 1),
        percent(part.first_position.share, 1),
        dot_strip(marks, told),
    )


def _spanned(share: Share) -> str:
    return f"{percent(share.share, 1)} ({percent(share.low, 1)} to {percent(share.high, 1)})"


def _share(value: float) -> str:
    return percent(value, 1)


def _reasons(card: JudgeCard) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in card.rejects.items())


def _people(card: JudgeCard) -> str:
    return "" if card.kappa_people is None else f"people among themselves: {_figure(card.kappa_people, '.2f')}"
