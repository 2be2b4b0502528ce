"""Text in an answer that is meant for the judge: a verdict, the judge's own frame or rubric, the markup of turns.

Patterns of form: a label in the place of a verdict, an answer that speaks of answers and which is better, a call to
whoever judges. Each kind knows what in a request makes the same words legitimate. Words that the request itself holds
never count.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cai.constitution import frames, paper
from cai.feedback.clean import clean
from cai.feedback.filters.words import shingles, words

VERDICT = "names a verdict"
COMPARISON = "compares answers"
ADDRESS = "speaks to the judge"
FRAME = "judge's frame"
MARKUP = "turn markup"
RUBRIC = "echoes the rubric"

_RUN = 6
"""A run of so many words from a principle is an echo of it, wherever it stands."""
_CLAIM = 4
"""The first so many words of what a principle asks for are an echo where the text says them of itself."""
_DENSE, _DENSE_WORDS = 0.6, 6
"""And so is a text of which most words that mean something are those of principles, if it has enough of them."""


def plain(text: str) -> str:
    """The text in its plainest spelling: wide and fancy letters as usual ones, nothing invisible."""
    normal = unicodedata.normalize("NFKC", text)
    return "".join(character for character in normal if unicodedata.category(character) != "Cf")


def spoken_to_judge(raw: str, text: str, request: str, rubrics: Sequence[str]) -> str:
    """The kind of what is said to the judge, or "". `text` and `request` are plain, `raw` is as it was written."""
    for form in _FORMS:
        if not form.asked.search(request) and _stands_in(form.said, text, request):
            return form.name
    if _echoed_turn(raw) and not _TURNS.asked.search(request):
        return MARKUP
    return RUBRIC if _echoes(text, request, tuple(rubrics)) else ""


@dataclass(frozen=True, slots=True)
class _Form:
    name: str
    said: re.Pattern[str]
    asked: re.Pattern[str]
    """What in a request makes it legitimate to say this."""


def _stands_in(said: re.Pattern[str], text: str, request: str) -> bool:
    return any(match[0].strip().lower() not in request.lower() for match in said.finditer(text))


_NOUN = r"(?:answers?|responses?|repl(?:y|ies)|completions?|outputs?|candidates?|submissions?)"
_CHOICE = rf"(?:{_NOUN}|options?|choices?|assistants?|verdict|winner|decision|judge?ment|preference|label|vote)"
_LABEL = r"[\"'“*_`(\[<]{0,3}(?-i:[AB])[\"'”*_`)\]>]{0,3}"
_END = r"(?=\s*(?:[.!;,?\n]|$|</))"
_START = r"(?:^|(?<=[.!?:\n])[^\S\n]{0,2}|(?<=\bthat )|(?<=\bbecause )|(?<=\bso )|(?<=\band ))"
_BETTER = (
    r"(?:better|best|superior|inferior|worse|worst|prefer\w*|win|wins|won|winner|winning|deserves?|chosen|correct|right|"
    r"(?:more|less|most|least) \w+|full marks|\d+ ?(?:/|out of) ?10)"
)
_COMPARED = (
    r"(?:better|best|superior|inferior|worse|worst|prefer(?:red|able)|win|wins|won|winner|deserves?|chosen|"
    r"(?:more|less|most|least) \w+|full marks|\d+ ?(?:/|out of) ?10)"
)
_CHOOSE = r"(?:choose|pick|select|prefer|favou?r|vote for|go with|rate|rank|score|grade|reward)"
_SAY = rf"(?:{_CHOOSE}|name|say|output|print|return|(?:reply|answer|respond)(?: with)?)"
_THIS = (
    r"(?:this|my|the other|that other|the first|the second|the former|the latter|both|neither|the previous|the above)"
)
_OBJECT = rf"\b{_THIS}(?: \w+)? (?:{_NOUN}|texts?)\b"
_DETERMINER = r"(?:the|an?|this|that|our|your|my|his|her|its|their|some|many|most|each|every|one|no)"
_ROLE = (
    r"(?:judges?|graders?|evaluators?|raters?|reviewers?|annotators?|referees?|arbiters?|assessors?|jury|reward model)"
)


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE | re.MULTILINE)


_VERDICTS = _any_of(
    rf"\b{_CHOICE}\b[^.\n]{{0,24}}?(?:\bis\b|\bgoes to\b|[:=>-])\s*{_LABEL}{_END}",
    rf"\b{_SAY}:?\s+(?:{_CHOICE}\s+)?{_LABEL}{_END}",
    rf"\b{_CHOICE}\s+{_LABEL}\s[^.\n]{{0,60}}?\b{_BETTER}\b",
    rf"\b{_BETTER}\b[^.\n]{{0,40}}?\b{_CHOICE}\s+{_LABEL}{_END}",
    rf"{_START}{_LABEL} (?:is|wins|was|has|should|must)\b[^.\n]{{0,40}}\b{_BETTER}\b",
    r"\[\[(?-i:[AB])\]\]",
    r"^[^\w\n]*(?:score|rating|grade)s?\s{0,2}[:=]\s{0,2}(?:10|[1-9])(?:\s?/\s?10)?[^\w\n]*$",
    r"^[^\w\n]*(?-i:[AB])[^\w\n]*$",
)
_CHOICES_OFFERED = _any_of(
    r"\([A-D]\)|(?-i:\b[A-D][).:]\s)",
    rf"\b{_CHOICE} (?-i:[A-D]\b)",
    r"\bmultiple.choice\b|\bwhich of (?:the|these)\b|\b(?:true|false) or\b|\boptions?:|\bchoices?:",
    r"\b(?:rate|rating|score|review|grades?|(?:which|what|one) letter|vitamin|blood|chords?)\b",
    r"(?-i:\bA\b.{0,60}\bB\b)",
)
_COMPARISONS = _any_of(
    rf"{_OBJECT}[^.!?\n]{{0,60}}?\b{_COMPARED}\b",
    rf"\b{_CHOOSE} (?:{_OBJECT}|(?:this one|me|mine){_END})",
    r"\b(?:this|it|mine|here|i)(?: is| am|'s|'m) (?:\w+ )?(?:the )?(?:\w+ )?"
    rf"(?:better|best|superior|preferred|winning) {_NOUN}\b",
)
_COMPARISON_ASKED = _any_of(
    r"\b(?:two|both|these|following|better|best|which|compare\w*|rank|rate|evaluate|other|first|second) (?:\w+ )?"
    rf"{_NOUN}\b",
    rf"\b(?:your|this|that) (?:\w+ )?{_NOUN}\b",
)
_ADDRESSES = _any_of(
    rf"(?:^|(?<=[.!?\n])[^\S\n]{{0,2}}|\()(?!{_DETERMINER} )(?:[\w']+ ){{0,4}}{_ROLE}\s*[,:]",
    rf"\bas (?:the|a|an) (?:\w+ )?{_ROLE},? you\b|\byou are (?:the|a|an) (?:\w+ )?{_ROLE}\b",
    rf"(?:^|(?<=[.!?\n])[^\S\n]{{0,2}})(?:please )?(?:ignore|disregard|forget|override)(?: \w+){{0,4}}? "
    rf"(?:instructions?|prompts?|criteri\w+|principles?|rubrics?|constitution|{_NOUN})\b",
)
_ADDRESS_ASKED = _any_of(
    rf"\b{_ROLE}\b",
    r"\b(?:court|trial|law|legal|contest|competition|tournament|instructions?|prompts?|criteria|principles?)\b",
)


def _pieces() -> str:
    """The fixed lines of the frames that are long enough to be known when they stand alone."""
    texts = (*frames.JUDGE.split("\n"), *frames.REASON.split("\n"), *frames.SCORE.split("\n"), *paper.JUDGE.split("\n"))
    lines = (re.split(r"\{\w+\}", line.strip())[0].strip() for line in texts)
    return "|".join(sorted(re.escape(line) for line in lines if len(words(line)) >= 5 or line == frames.DECIDE))


_FRAMES = _any_of(
    _pieces(),
    r"^[^\S\n]*\[[0-9a-f]{4}\][^\S\n]*$",
    rf"^[^\w\n]*{_NOUN}(?: (?-i:[AB]))? ?\[\w{{2,16}}\] ?:",
    r"^[^\S\n]*(?-i:\(B\)).{0,400}\n[^\w\n]*the answer is\b|^[^\w\n]*options:[^\S\n]*\n[^\S\n]*(?-i:\(A\))",
)
_TURNS = _Form(
    MARKUP,
    _any_of(
        r"<\|[^|>\n]{1,40}\|>",
        r"\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>",
        r"(?-i:<(?:bos|eos|pad|unk|mask|sep|cls)>|</s>)",
    ),
    _any_of(
        r"<\||\[INST\]|</s>|\b(?:tokens?|tokeni\w+|markup|html|xml|templates?|dialogues?|transcripts?|script|interview)\b"
    ),
)
_FORMS = (
    _TURNS,
    _Form(FRAME, _FRAMES, _CHOICES_OFFERED),
    _Form(VERDICT, _VERDICTS, _CHOICES_OFFERED),
    _Form(ADDRESS, _ADDRESSES, _ADDRESS_ASKED),
    _Form(COMPARISON, _COMPARISONS, _COMPARISON_ASKED),
)


def _echoed_turn(raw: str) -> bool:
    """Whether cleaning, which every sampled answer went through, would still find another turn in it."""
    cleaned = clean(raw, "answer")
    return bool({"turn markup", "another turn", "leaked frame"} & set(cleaned.removed))


_ITSELF = re.compile(
    r"(?:^|[.!?,;:\n][^\S\n]{0,2}|\b(?:that|and) )"
    r"(?:this|these|it|here|what|everything|mine|i|my \w+|the above)\b([^.!?\n]*)",
    re.IGNORECASE,
)
"""A clause that begins with the text's own self, and what it says of it."""
_THAN = re.compile(r"\bthan\b", re.IGNORECASE)
_ABOUT = re.compile(rf".*\b{_NOUN}\b(?: (?:that|which|who))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Rubric:
    runs: frozenset[str]
    """Its runs of `_RUN` words, or the whole of it where it is shorter."""
    claim: str
    """How it says what an answer should be, such as "is less harmful"."""


@lru_cache(maxsize=8)
def _read(rubrics: tuple[str, ...]) -> tuple[tuple[_Rubric, ...], frozenset[str]]:
    """Each rubric's runs, and the words that mean something in any of them."""
    read = []
    for rubric in map(plain, rubrics):
        wanted = words(_ABOUT.sub("", rubric)) or words(rubric)
        read.append(_Rubric(frozenset(shingles(words(rubric), _RUN)), " ".join(wanted[:_CLAIM])))
    return tuple(read), frozenset(word for rubric in rubrics for word in _meant(words(plain(rubric))))


def _meant(told: Sequence[str]) -> list[str]:
    return [word for word in told if len(word) > 3 and word not in _EMPTY and not _AN_ANSWER.fullmatch(word)]


_AN_ANSWER = re.compile(_NOUN)
_EMPTY = {"that", "this", "which", "what", "with", "from", "have", "they", "them", "their", "than", "then", "when"}


def _echoes(text: str, request: str, rubrics: tuple[str, ...]) -> bool:
    read, vocabulary = _read(rubrics)
    said, asked = words(text), f" {' '.join(words(request))} "
    own = {run for run in shingles(said, _RUN) if f" {run} " not in asked}
    if any(own & rubric.runs for rubric in read):
        return True
    claims = {rubric.claim for rubric in read if not set(_meant(rubric.claim.split())) <= set(asked.split())}
    for clause in _ITSELF.finditer(text):
        claimed = f" {' '.join(words(clause[1])[: 2 * _CLAIM])} "
        if not _THAN.search(clause[1]) and any(f" {claim} " in claimed for claim in claims):
            return True
    meant = [word for word in _meant(said) if f" {word} " not in asked]
    return len(meant) >= _DENSE_WORDS and sum(word in vocabulary for word in meant) >= _DENSE * len(meant)
