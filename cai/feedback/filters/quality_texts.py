"""Made text for `quality_make`: prose in the layouts that answers come in, and several kinds of each sort of poor text.

The kinds that tests measure on are not among these, and must never be.
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

Maker = Callable[[random.Random, Sequence[str]], str]

_GOODS = "watch phone shoes course loan ticket diet bag coin laptop pillow game lamp drone perfume sofa".split()  # noqa: SIM905
_HYPE = "amazing exclusive limited best hot new secret guaranteed incredible unbeatable instant premium".split()  # noqa: SIM905
_CALLS = "buy order call click join act save win claim subscribe register grab".split()  # noqa: SIM905
_PAGES = "Home About Contact Products News Login Register Help Search Blog Careers Shop Cart Account Sitemap".split()  # noqa: SIM905
_LEGAL = "privacy policy terms conditions cookies copyright rights reserved disclaimer newsletter settings".split()  # noqa: SIM905


def read_pieces(path: Path) -> dict[str, list[str]]:
    """Kinds by name, each with its pieces: a heading, a line for each piece, an empty line."""
    found = {}
    for part in path.read_text(encoding="utf-8").strip().split("\n\n"):
        name, *pieces = part.splitlines()
        found[name.removeprefix("# ")] = pieces
    return found


PIECES = read_pieces(Path(__file__).with_name("pieces.txt"))
"""`{n}` stands for a number. Some sorts shout, some write whole letters: both are learned from."""


def _sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.!?]) ", paragraph)


def _prose(rng: random.Random, paragraphs: Sequence[str]) -> str:
    if rng.random() < 0.12:
        return _worked(rng)
    if rng.random() < 0.2:
        return _list(rng, paragraphs)
    if rng.random() < 0.2:
        return rng.choice([" ", "\n\n"]).join(rng.sample(list(paragraphs), rng.randint(2, 4)))
    text = rng.choice(paragraphs)
    sentences = _sentences(text)
    start = rng.randrange(len(sentences))
    part = " ".join(sentences[start : start + rng.randint(2, 8)])
    if len(part.split()) < 15:
        part = text
    way = rng.random()
    if way < 0.1:
        part = "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(_sentences(part), 1))
    elif way < 0.16:
        part = "\n".join(f"{name}: {s}" for s, name in zip(_sentences(part), ["Anna", "Ben"] * 9, strict=False))
    elif way < 0.22:
        part = _verses(part)
    elif way < 0.32:
        part = part.replace(".", "!", 1)
    return part


def _list(rng: random.Random, paragraphs: Sequence[str]) -> str:
    """An answer that lists: a sentence before it, items of a few words or one, and often a sentence at the end."""
    first, last = rng.choice(paragraphs), rng.choice(paragraphs)
    size, items = rng.choice([1, 1, 2, 4, 7, 30]), []
    for _i in range(rng.randint(4, 12)):
        words = rng.choice(_sentences(rng.choice(paragraphs))).strip(".,;:!?()\"'").split()
        if size == 1:
            words = [rng.choice([word for word in words if len(word) > 3] or words)]
        item = " ".join(words[:size]).rstrip(",;:")
        named = f"{words[-1].title()}: {item}"
        items.append(rng.choice([item, item.capitalize(), item.title() if size < 3 else item, named]))
    mark = rng.choice(["{i}. ", "{i}) ", "- ", "* ", "• ", "{i}. **"])
    lines = [mark.format(i=i) + item + ("**" if mark.endswith("**") else "") for i, item in enumerate(items, 1)]
    opening = _sentences(first)[0].rstrip(".!?") + ":"
    closing = [_sentences(last)[-1]] if rng.random() < 0.6 else []
    return "\n".join([opening, *lines, *closing])


def _verses(text: str) -> str:
    """The same in lines of a few words, each beginning large, as in a poem."""
    words = text.split()
    lines = [" ".join(words[i : i + 6]) for i in range(0, len(words), 6)]
    return "\n".join(line[:1].upper() + line[1:] for line in lines)


def _worked(rng: random.Random) -> str:
    """A sum done step by step: honest text that says similar things again, with numbers."""
    things = ["apples", "coins", "litres", "books", "eggs", "metres", "pupils", "cards", "dollars"]
    thing, name, have = rng.choice(things), rng.choice(["Anna", "Ben", "Tom", "Mia"]), rng.randint(3, 90)
    lines = [f"{name} begins with some {thing}, and we want to know how many there are at the end."]
    for step in range(1, rng.randint(3, 8)):
        more = rng.randint(2, 40)
        ways = [
            f"Step {step}: add the {more} {thing} to the {have} {thing}, which gives {have + more} {thing}.",
            f"Then {more} {thing} come to it, so the total is now {have} + {more} = {have + more} {thing}.",
            f"Next, multiply the number of {thing} by {more}: {have} x {more} = {have * more}.",
            f"{step}. To find the new number of {thing}, we take {more} and add it to {have}.",
        ]
        lines.append(rng.choice(ways))
        have += more
    lines.append(rng.choice([f"So the answer is {have} {thing}.", f"Therefore, {name} has {have} {thing} in the end."]))
    if thing == "dollars":
        lines = [re.sub(r"(\d+) dollars", r"$\1", line) for line in lines]
    elif rng.random() < 0.2:
        lines = [re.sub(r"(\d+)", r"\1%", line) for line in lines]
    return rng.choice([" ", "\n", "\n\n", "\n- "]).join(lines)


def _spam(rng: random.Random, _: Sequence[str]) -> str:
    if rng.random() < 0.75:
        return _drawn(rng, "spam")
    lines = []
    for _i in range(rng.randint(3, 9)):
        good, hype, call = rng.choice(_GOODS), rng.choice(_HYPE), rng.choice(_CALLS)
        ways = [
            f"{call} your {hype} {good} now!!!",
            f"{hype} {good} only ${rng.randint(5, 99)}!",
            f"{rng.randint(20, 90)}% off {good}, {call} today!",
            f"{call} here: www.{hype}-{good}.com",
            f"get the {hype} {good} you want, {hype} price, {hype} deal",
            f"{good} {good} {hype} {good} cheap {good} online",
        ]
        line = rng.choice(ways)
        lines.append(line.upper() if rng.random() < 0.3 else line)
    return rng.choice([" ", "\n", "\n- "]).join(lines)


def _boilerplate(rng: random.Random, _: Sequence[str]) -> str:
    if rng.random() < 0.6:
        return _drawn(rng, "boilerplate")
    parts = []
    for _i in range(rng.randint(4, 12)):
        a, b = rng.choice(_PAGES), rng.choice(_LEGAL)
        ways = [
            a,
            f"{a} {rng.choice(_PAGES)}",
            b.title(),
            f"{b} {rng.choice(_LEGAL)}".title(),
            f"© {rng.randint(1999, 2030)} All {b}",
            f"Page {rng.randint(1, 40)} of {rng.randint(40, 90)}",
            f"Posted by {a.lower()} on {rng.randint(1, 28)}/{rng.randint(1, 12)}",
        ]
        parts.append(rng.choice(ways))
    return rng.choice([" | ", " ", "\n", " » ", " - "]).join(parts)


def _drawn(rng: random.Random, name: str) -> str:
    """Some pieces of one kind in any order, with numbers of their own."""
    pieces = rng.choice([pieces for kind, pieces in PIECES.items() if kind.startswith(name)])
    said = rng.sample(pieces, rng.randint(min(5, len(pieces)), len(pieces)))
    numbered = [piece.replace("{n}", str(rng.randint(2, 900))) for piece in said]
    return rng.choice([" ", " ", "\n", "\n- "]).join(numbered)


def _repetition(rng: random.Random, paragraphs: Sequence[str]) -> str:
    tokens = rng.choice(paragraphs).split()
    size = rng.choice([1, 2, 4, 8, 14])
    start = rng.randrange(max(len(tokens) - size, 1))
    piece = tokens[start : start + size]
    lead = tokens[: rng.randint(0, 15)]
    said = [" ".join(piece)] * rng.randint(4, 20)
    return rng.choice([" ", " ", "\n", "\n- "]).join([" ".join(lead), *said]).strip()


def _salad(rng: random.Random, paragraphs: Sequence[str]) -> str:
    tokens = " ".join(rng.sample(list(paragraphs), 3)).split()
    way = rng.random()
    if way < 0.5:
        rng.shuffle(tokens)
    elif way < 0.7:
        tokens = [token for token in tokens if len(token) > 4]
        rng.shuffle(tokens)
    elif way < 0.85:
        vocabulary = sorted(set(tokens))
        tokens = [rng.choice(vocabulary) for _ in tokens]
    else:
        tokens = ["".join(rng.choice("abcdefghijklmnoprstuvwz") for _ in range(rng.randint(2, 9))) for _ in tokens]
    lines = tokens[: rng.randint(20, 90)]
    size = rng.choice([len(lines), 3, 12]) if rng.random() < 0.3 else len(lines)
    return "\n- ".join(" ".join(lines[i : i + size]) for i in range(0, len(lines), size))


MAKERS: dict[str, Maker] = {
    "prose": _prose,
    "spam": _spam,
    "repetition": _repetition,
    "boilerplate": _boilerplate,
    "salad": _salad,
}
"""Class to what makes one text of it; the paragraphs are the project's own."""
