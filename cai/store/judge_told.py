"""A judge's card, as `cai judge card` and the stage `judge` write it, told in Markdown for a data set's card."""

import json
from collections.abc import Mapping
from pathlib import Path

from cai.errors import InputError

CARD = "card.json"
_SHARES = {"accuracy": "right", "both_orders": "right in both orders", "consistency": "same answer in both orders"}
_FIGURES = {"kappa": "κ with the labels", "calibration_error": "calibration error", "auroc": "AUROC"}


def read_card(path: Path) -> dict[str, object]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read as a judge card ({error})", None, "name a card.json") from None
    if not isinstance(card, dict) or not isinstance(card.get("accuracy"), dict):
        raise InputError(str(path), "is no judge card", None, "name the card.json that `cai judge card` wrote")
    return card


def judge_told(card: Mapping[str, object]) -> str:
    """The figures that decide whether labels can be believed, each beside what a rule without judgement gets."""
    judge, data = _plain(card.get("judge")), _plain(card.get("data"))
    intro = f"Judge `{judge}`, measured on {card.get('judged')} labelled pairs of `{data}`:"
    lines = [intro, "", "| what | value | 95 % |", "| --- | ---: | --- |"]
    for key, name in _SHARES.items():
        share = card.get(key)
        if isinstance(share, Mapping):
            lines.append(f"| {name} | {_share(share['share'])} | {_share(share['low'])} to {_share(share['high'])} |")
        if key == "accuracy":
            lines.append(f"| the longer answer is right | {_share(card.get('longer_wins'))} | |")
    for key, name in _FIGURES.items():
        value = card.get(key)
        if isinstance(value, int | float):
            lines.append(f"| {name} | {value:.3f} | |")
    return "\n".join(lines)


def _share(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else "–"


def _plain(value: object) -> str:
    return " ".join(str(value).replace("`", "'").replace("|", "/").split())
