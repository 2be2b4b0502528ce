"""Lint rules on the words of one text: whether the critic, the reviser and the judge can act on it.

They read English. A text in another language meets only the rules that do not depend on words.
"""

import re
import unicodedata
from collections.abc import Iterator

from cai.constitution.findings import Note, Subject, named
from cai.constitution.lint_words import (
    ASKS,
    CARRIER,
    CLAUSE,
    COMPARES,
    FUNCTION_WORDS,
    HIDDEN,
    LIST,
    LOOKALIKES,
    MARKUP,
    NEGATION,
    ONLY_PLACEHOLDER,
    PLACEHOLDER,
    PURPOSES,
    STATES,
    TELLS,
    VAGUE,
    words_of,
)
from cai.constitution.model import TEXTS

MAX_WORDS = 80


def vague_text(subject: Subject) -> Iterator[Note]:
    """Nothing in the text tells one answer from another."""
    for principle, name, text in subject.texts():
        if not [word for word in words_of(text) if word not in VAGUE and word not in FUNCTION_WORDS]:
            yield Note(
                principle.line_of(name),
                f"{named(principle)}: the {name} asks for nothing in particular",
                "say what to look for, so that two people would find the same",
            )


def negative_only(subject: Subject) -> Iterator[Note]:
    """The revision says what to leave out, and nowhere what to do instead."""
    for principle in subject.principles:
        clauses = CLAUSE.split(principle.revision)
        if principle.revision and not any(_is_positive(clause) for clause in clauses):
            yield Note(
                principle.line_of("revision"),
                f"{named(principle)}: the revision says only what to leave out",
                "add what the answer should do instead; a model told only what to avoid learns to refuse",
            )


def long_text(subject: Subject) -> Iterator[Note]:
    for principle, name, text in subject.texts():
        if (count := len(text.split())) > MAX_WORDS:
            yield Note(
                principle.line_of(name),
                f"{named(principle)}: the {name} has {count} words",
                f"stay within {MAX_WORDS}, or split the principle: every row that draws it reads it all",
            )


def placeholder_text(subject: Subject) -> Iterator[Note]:
    """Text that waits to be written. Prompts and answers may hold braces and brackets; principles do not."""
    for principle, name, text in subject.texts():
        if found := PLACEHOLDER.search(text):
            shown = found[0].strip() or text
            yield Note(
                principle.line_of(name), f"{named(principle)}: the {name} holds '{shown}'", "write what is meant"
            )
    for principle in subject.principles:
        for test in principle.tests:
            for text in (test.prompt, test.better, test.worse):
                if ONLY_PLACEHOLDER.fullmatch(text):
                    yield Note(test.line, f"{named(principle)}: a test holds only '{text}'", "write it or remove it")


def frame_markup(subject: Subject) -> Iterator[Note]:
    """The judge sees labels and fences around the answers; a principle that has them too confuses the two."""
    for principle, name, text in subject.texts():
        if found := MARKUP.search(text):
            yield Note(
                principle.line_of(name),
                f"{named(principle)}: the {name} holds '{found[0].strip()}', which belongs to the text around it",
                "speak of the answers by what they do, never by label or markup",
            )


def critique_form(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        opening = _opening(principle.critique)
        if opening and opening not in ASKS and not _is_question(principle.critique):
            yield Note(
                principle.line_of("critique"),
                f"{named(principle)}: the critique is neither a request nor a question",
                "start with what to look for, like 'Point out …', or ask a question",
            )


def revision_form(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        if _opening(principle.revision) in STATES or _is_question(principle.revision):
            yield Note(
                principle.line_of("revision"),
                f"{named(principle)}: the revision does not tell the model what to do",
                "write a request, like 'Rewrite the answer so that …'",
            )


def preference_form(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        opening = _opening(principle.preference)
        if opening and opening not in COMPARES and not _is_question(principle.preference):
            yield Note(
                principle.line_of("preference"),
                f"{named(principle)}: the preference asks for no choice",
                "ask which answer does better, like 'Which answer …?'",
            )


def many_questions(subject: Subject) -> Iterator[Note]:
    """A judge gives one verdict: asked two things, it answers one of them, and nobody knows which."""
    for principle in subject.principles:
        text = principle.preference
        asked = max(text.count("?"), len(re.findall(r"\bwhich (?:answer|response|reply|one)\b", text, re.IGNORECASE)))
        listed = LIST.search(text)
        if asked > 1 or listed:
            what = f"asks for '{listed[1]}' at once" if listed else f"asks {asked} questions at once"
            yield Note(
                principle.line_of("preference"),
                f"{named(principle)}: the preference {what}",
                "make each a principle of its own; weights say which matters more",
            )


def copied_text(subject: Subject) -> Iterator[Note]:
    """The same words for two of the three texts."""
    for principle in subject.principles:
        seen: dict[tuple[str, ...], str] = {}
        for name in TEXTS:
            words = tuple(words_of(principle.text(name)))
            if words and words in seen:
                yield Note(
                    principle.line_of(name),
                    f"{named(principle)}: the {name} repeats the {seen[words]}",
                    "the critique finds, the revision mends, the preference compares: write each for its reader",
                )
            seen.setdefault(words, name)


def odd_characters(subject: Subject) -> Iterator[Note]:
    """Letters that look like others, and characters that nobody sees: a model reads them as something else."""
    for principle, name, text in subject.texts():
        for word in re.findall(r"\w+", text):
            scripts = {script for char in word if (script := _script(char))}
            if "LATIN" in scripts and scripts & LOOKALIKES:
                odd = next(char for char in word if _script(char) in LOOKALIKES)
                yield Note(
                    principle.line_of(name),
                    f"{named(principle)}: in '{word}' of the {name}, '{odd}' is {unicodedata.name(odd).lower()}",
                    "type the word again",
                )
        if found := HIDDEN.search(text):
            told = unicodedata.name(found[0], f"U+{ord(found[0]):04X}").lower()
            yield Note(
                principle.line_of(name), f"{named(principle)}: the {name} holds an invisible {told}", "remove it"
            )


def _is_positive(clause: str) -> bool:
    words = words_of(clause)
    if not words or NEGATION.search(clause) or CARRIER.match(clause):
        return False
    return words[0] in PURPOSES or any(word in TELLS for word in words)


def _opening(text: str) -> str:
    """The first word, after a please; empty where the text does not open in Latin letters, for lack of judgement."""
    found = re.match(r"\W*(?:[Pp]lease\s+)?([A-Za-z]+)", text)
    return found[1].lower() if found else ""


def _is_question(text: str) -> bool:
    return text.rstrip("\"'”’) ").endswith(("?", "？"))


def _script(char: str) -> str:
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() else ""
