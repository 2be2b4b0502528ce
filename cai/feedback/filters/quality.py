"""Whether a text reads like prose, or like spam, repetition, boilerplate or word salad: features and a small model.

The features are of form: how words follow each other, how much is said twice, which signs it uses, and how many words
press, call, promise a gain or name a button. The weights are made by `quality_make` from text that the project wrote
and from text that is generated. Where the features cannot tell (a few words, code, another language than English) only
repetition is judged.
"""

import functools
import itertools
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cai.feedback.filters.looking import Finding, Row, Sieve, answers_of

WEIGHTS = Path(__file__).with_name("quality.json")
CLASSES = ("prose", "spam", "repetition", "boilerplate", "salad")
THRESHOLD = 0.95
"""How sure the model must be that a text is no prose: what is taken out wrongly is lost."""
MIN_WORDS = 20
_STRETCH = 50

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those it its he she they we you i me him her us them my your his our their who
    which what and or but nor so if because while when where as than then though since until of in on at by
    for with from to into about over under after before between through is are was were be been being am do
    does did have has had will would can could may might must shall should not no there here how why all any
    some each every both few more most other such only own same too very just also again
""".split()  # noqa: SIM905 - a list of so many would fill the page
)
OTHER_LANGUAGES = frozenset(
    """
    der die das und ist nicht ein eine ich sie mit auf für dem den von zu wir le la les des et est une un
    dans que qui pour pas sur avec vous je el los las y es una por para con no se su lo como il di che è per
    non sono della o os um uma não com do da em het een van dat op te zijn niet voor
""".split()  # noqa: SIM905 - a list of so many would fill the page
)
# What advertising does to a reader, whatever it sells: it presses, it calls, it promises.
PRESSING = frozenset(
    """
    now today tonight hurry urgent urgently immediately instantly instant limited expires expire expiring deadline
    quick quickly fast final act miss soon hours minutes asap last
""".split()  # noqa: SIM905 - a list of so many would fill the page
)
CALLING = frozenset(
    """
    click call order buy join claim reply visit subscribe contact send text apply register sign download verify confirm
    enter grab follow share tap
""".split()  # noqa: SIM905 - a list of so many would fill the page
)
GAINING = frozenset(
    """
    free win winner won prize offer offers bonus deal deals discount save savings guaranteed guarantee reward rewards
    profit profits earn income cash money dollars million credit price prices cheap best exclusive special amazing
    incredible secret proven risk percent trial gift
""".split()  # noqa: SIM905 - a list of so many would fill the page
)
# What stands on buttons and around a page.
BUTTONS = frozenset(
    """
    home about contact products login register help search cart account sitemap menu copyright rights reserved privacy
    policy terms cookies settings page posted comments reply share print subscribe unsubscribe newsletter sign password
    username loading skip next previous back view more read related tags categories archive archives download upload
    edit delete update version browser website site email message
""".split()  # noqa: SIM905 - a list of so many would fill the page
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|[.,;:!?]")
_DIGIT = re.compile(r"\d")
_SIGN = re.compile(r"[^\w\s.,;:!?'\"’()-]|_")
_ADDRESSED = frozenset(("you", "your", "we", "our"))
_HANDLE = re.compile(r"(?<![\w@#])[@#][A-Za-z]\w")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_SENTENCE = re.compile(r"[.!?\n|•·»]+")
_BULLET = re.compile(r"^[ \t]*(?:\d{1,2}[.)]|[-*•])[ \t]+", re.MULTILINE)
_MARKDOWN = re.compile(r"[*`_]{1,3}|^#{1,6} ", re.MULTILINE)
_VOWELS = frozenset("aeiouyäöüéèàáíóúâêîôûœæø")


@dataclass(frozen=True, slots=True)
class Quality:
    """The likeliest class and the probability of no prose; `judged` is false where nothing can be told."""

    kind: str
    p_poor: float
    judged: bool = True


@dataclass(frozen=True)
class Model:
    """Features are shifted and scaled, then weighed for each class; `follows` is how words follow words in prose."""

    follows: dict[str, float]
    unseen: float
    means: list[float]
    scales: list[float]
    weights: dict[str, list[float]]


def poor_text(threshold: float = THRESHOLD) -> Sieve:
    """Finds rows whose answer to learn, `chosen` or the only one, is surely no prose."""

    def look(row: Row) -> Finding | None:
        field = next(iter(answers_of(row)))
        found = quality_of(answers_of(row)[field])
        if found.judged and found.p_poor >= threshold:
            return Finding(f"poor text: {found.kind}", f"{field} is no prose with a probability of {found.p_poor:.2f}")
        return None

    return look


def quality_of(text: str) -> Quality:
    model = load_model()
    plain = _FENCE.sub(" ", text)
    tokens = _WORD.findall(plain)
    low = [token.lower() for token in tokens]
    if repeated := _repetition(low):
        return Quality("repetition", repeated)
    if len(tokens) < MIN_WORDS or not _is_english(low, plain):
        return Quality("prose", 0.0, judged=False)
    values = features(plain, model.follows, model.unseen, tokens)
    scaled = [(v - m) / s for v, m, s in zip(values, model.means, model.scales, strict=True)]
    scores = {
        name: w[-1] + math.fsum(a * b for a, b in zip(w, scaled, strict=False)) for name, w in model.weights.items()
    }
    top = max(scores.values())
    odds = {name: math.exp(score - top) for name, score in scores.items()}
    worst = max(CLASSES[1:], key=lambda name: odds[name])
    p_poor = 1 - odds["prose"] / math.fsum(odds.values())
    return Quality(worst if p_poor > 0.5 else "prose", p_poor)


def features(text: str, follows: dict[str, float], unseen: float, tokens: Sequence[str] = ()) -> list[float]:
    """Numbers that do not depend on how long the text is, once it has a few dozen words. Who has its words as `_WORD`
    finds them may hand them over."""
    lines = [line for line in text.split("\n") if line.strip()]
    bullets = len(_BULLET.findall(text)) / max(len(lines), 1)
    # Lists and headings are as honest as the sentences in them.
    plain = _MARKDOWN.sub("", _BULLET.sub("", text))
    if plain != text or not tokens:
        text, tokens = plain, _WORD.findall(plain)
    low = [token.lower() for token in tokens]
    alpha = [token for token in low if token[0].isalpha()]
    words = Counter(alpha)
    return [
        *_of_words(low, alpha, words, follows, unseen),
        *_of_signs(text, tokens, Counter(low), len(alpha)),
        bullets,
        *_of_pitch(text, low, words, len(alpha)),
    ]


def _of_words(
    low: Sequence[str], alpha: Sequence[str], words: Counter[str], follows: dict[str, float], unseen: float
) -> list[float]:
    """How words follow each other, and how often they come again."""
    n = max(len(alpha), 1)
    kinds = [word_kind(token) for token in low]
    flow = [follows.get(f"{a} {b}", unseen) for a, b in itertools.pairwise(kinds)]
    triples = list(zip(low, low[1:], low[2:], strict=False))
    mean = sum(flow) / max(len(flow), 1)
    return [
        _share(words, FUNCTION_WORDS, n),
        mean,
        sum(step <= unseen for step in flow) / max(len(flow), 1),
        (mean - 0.2) * math.sqrt(min(n, 80)),
        1 - len(set(triples)) / max(len(triples), 1),
        sum(count for word, count in words.items() if len(word) > 2 and _VOWELS.isdisjoint(word)) / n,
        _variety(alpha),
        _share(words, _ADDRESSED, n),
    ]


def _share(words: Counter[str], known: frozenset[str], n: int) -> float:
    return sum(words[word] for word in words.keys() & known) / n


def _variety(words: Sequence[str]) -> float:
    """The share of different words, over stretches of equal length: a longer text repeats more without being worse."""
    parts = [words[i : i + _STRETCH] for i in range(0, max(len(words) - _STRETCH // 2, 1), _STRETCH)]
    return math.fsum(len(set(part)) / max(len(part), 1) for part in parts) / len(parts)


def _density(text: str) -> float:
    """How little the text can be compressed, over stretches of equal length."""
    size = 8 * _STRETCH
    parts = [text[i : i + size] for i in range(0, max(len(text) - size // 2, 1), size)]
    packed = sum(len(zlib.compress(part.encode("utf-8", "replace"), 6)) / max(len(part), 1) for part in parts)
    return min(packed / len(parts), 1.2)


def _of_signs(text: str, tokens: Sequence[str], low: Counter[str], n: int) -> list[float]:
    """Sentences, lines, capitals, digits and signs."""
    n, characters, every = max(n, 1), max(len(text), 1), max(len(tokens), 1)
    sentences = [" ".join(s.lower().split()) for s in _SENTENCE.split(text) if s.strip()]
    return [
        1 - len(set(sentences)) / max(len(sentences), 1),
        _density(text),
        min(math.log1p(n / max(len(sentences), 1)), 4.0),
        sum(sentence.count(" ") < 3 for sentence in sentences) / max(len(sentences), 1),
        sum(token.isupper() and len(token) > 1 for token in tokens) / every,
        sum(token[0].isupper() for token in tokens) / every,
        min(text.count("!") * 10 / n, 3.0),
        len(_DIGIT.findall(text)) / characters,
        len(_SIGN.findall(text)) * 5 / characters,
        min((text.count("://") + text.count("www.") + text.count(".com")) * 10 / n, 3.0),
        sum(low[sign] for sign in ".,;:?") / every,
    ]


def _of_pitch(text: str, low: Sequence[str], words: Counter[str], n: int) -> list[float]:
    """How much it presses, calls, promises and names buttons; and how many ways of advertising meet."""
    n = max(n, 1)
    shares = [_share(words, known, n) for known in (PRESSING, CALLING, GAINING, BUTTONS)]
    opening = sum(word in CALLING and before in ".!?:" for before, word in itertools.pairwise((".", *low)))
    money = min(sum(text.count(sign) for sign in "$€£%") * 10 / n, 3.0)
    handles = min(len(_HANDLE.findall(text)) * 10 / n, 3.0)
    ways = sum(share > 0.02 for share in shares[:3]) + (money > 0) + (handles > 0) + ("!" in text)
    return [*(min(share, 0.3) for share in shares), opening * 10 / n, money, handles, ways / 6]


@functools.lru_cache(maxsize=50_000)
def word_kind(word: str) -> str:
    """A function word is a kind of its own; other words are told apart by their endings."""
    if word in FUNCTION_WORDS or not word[0].isalnum():
        return word
    if word[0].isdigit():
        return "9"
    for ending in ("ing", "ed", "ly", "tion", "ment", "ness", "'s", "n't", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return f"-{ending}"
    return "-"


@functools.cache
def load_model() -> Model:
    return Model(**json.loads(WEIGHTS.read_text(encoding="utf-8")))


def _is_english(low: Sequence[str], text: str) -> bool:
    """False where another language's small words prevail, or most letters are not Latin, or the text is code."""
    if not text.isascii():
        letters = [c for c in text if c.isalpha()]
        if sum(ord(c) < 0x250 for c in letters) < 0.7 * len(letters):
            return False
    if sum(text.count(c) for c in "{}[]=<>;\\_") > 0.04 * len(text) or not any(word[0].isalpha() for word in low):
        return False
    theirs = sum(word in OTHER_LANGUAGES and word not in FUNCTION_WORDS for word in low)
    return theirs <= sum(word in FUNCTION_WORDS for word in low) or theirs < 0.12 * len(low)


def _repetition(low: Sequence[str]) -> float:
    """Repetition that no language needs, as a probability, or 0: whole runs of words said over and over."""
    if len(low) < MIN_WORDS:
        return 0.0
    runs = Counter(zip(low, low[1:], low[2:], low[3:], strict=False))
    again = sum(count - 1 for count in runs.values()) / (len(low) - 3)
    return 0.99 if again > 0.6 else 0.0
