"""Labelling pairs in the terminal: blind, in an order and with sides drawn by the seed, each label kept at once."""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cai.cli.screen import console, spelled_out
from cai.constitution.actions import said
from cai.errors import InputError
from cai.feedback.judge_card import Known
from cai.records import content_id
from cai.seeds import derive, shuffled, uniform
from cai.statistics import cohen_kappa, share_interval
from cai.store.formats.messages import as_messages

Label = str
"""'better' and 'worse' name the answer that the data call so; 'tie' neither."""


def labelled_before(path: Path) -> dict[str, Label]:
    """What stands in the file, by the pair's id."""
    if not path.exists():
        return {}
    found: dict[str, Label] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            found[str(row["pair"])] = str(row["label"])
        except (ValueError, KeyError, TypeError):
            remedy = "name a new file, or one that this command made"
            raise InputError(f"{path}:{number}", "is no label", line, remedy) from None
    return found


def label_pairs(pairs: Sequence[Known], path: Path, seed: int) -> None:
    """Asks about one pair after the other until they or the answers end."""
    by_id = {pair.id: pair for pair in pairs}
    order = shuffled(list(by_id), derive(seed, "labelling"))
    for number, name in enumerate(order, 1):
        pair = by_id[name]
        better_first = _better_first(pair, seed)
        _show(pair, better_first, f"{number} of {len(order)}")
        key = _key()
        if key == "q":
            return
        if key in ("1", "2"):
            _keep(path, pair, "better" if (key == "1") == better_first else "worse")
        elif key == "t":
            _keep(path, pair, "tie")


def agreement(
    pairs: Sequence[Known], labels: Mapping[str, Label], judge: Mapping[str, bool] | None = None
) -> Iterator[str]:
    """How far the person agrees with the data, or with a judge of whom it is known whether it names the better."""
    other = "the data" if judge is None else "the judge"
    decided = [pair for pair in pairs if labels.get(pair.id) in ("better", "worse")]
    ties = sum(labels.get(pair.id) == "tie" for pair in pairs)
    if not decided:
        yield f"Nothing was decided yet ({ties} ties)."
        return
    sides = [uniform(derive("side", pair.id), 0) < 0.5 for pair in decided]
    mine = [labels[pair.id] == "better" for pair in decided]
    named = [judge is None or judge[pair.id] for pair in decided]
    agreed = [one == other for one, other in zip(mine, named, strict=True)]
    interval = share_interval(sum(agreed), len(agreed))
    share = sum(agreed) / len(agreed)
    told = f"{share:.1%} ({interval.low:.1%} to {interval.high:.1%}) of {len(agreed)}, {ties} ties beside them"
    yield f"You and {other} name the same answer: {told}."
    kappa = cohen_kappa(*([flag == side for flag, side in zip(flags, sides, strict=True)] for flags in (mine, named)))
    told = "unknown" if math.isnan(kappa) else f"{kappa:.2f}"
    yield f"κ {told}" + ("" if len(agreed) >= 50 else "; with fewer than 50 pairs that says little")


def _better_first(pair: Known, seed: int) -> bool:
    """The answers' own content and the seed decide which stands first: the label has no say in what is shown."""
    first, second = sorted((pair.better, pair.worse), key=content_id)
    return pair.better == (first if uniform(derive(seed, "side", pair.id), 0) < 0.5 else second)


def _show(pair: Known, better_first: bool, place: str) -> None:
    first, second = (pair.better, pair.worse) if better_first else (pair.worse, pair.better)
    screen = console()
    screen.rule(place)
    for message in pair.prompt.messages:
        screen.print(f"{message.role.capitalize()}: {spelled_out(said(message))}", style="bold")
    for number, answer in ((1, first), (2, second)):
        screen.print(f"\nAnswer {number}", style="cyan")
        screen.print(spelled_out(answer))
    screen.print()


def _key() -> str:
    while True:
        sys.stderr.write("1, 2, t, s or q: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            return "q"
        if (key := line.strip().lower()) in ("1", "2", "t", "s", "q"):
            return key


def _keep(path: Path, pair: Known, label: Label) -> None:
    """A row of the file is a pair in the layout of TRL, so that whatever reads pairs reads it."""
    chosen, rejected = (pair.better, pair.worse) if label != "worse" else (pair.worse, pair.better)
    row = {
        "pair": pair.id,
        "label": label,
        "kind": "tie" if label == "tie" else "preferred",
        "subset": pair.subset,
        "prompt": as_messages(pair.prompt.messages),
        **({"tools": pair.prompt.tools} if pair.prompt.tools else {}),
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
