"""Linting a constitution: everything that can be said about a principle without asking a model.

An **error** makes a principle useless or a release untrue; a **warning** is probably a mistake; **advice** is what
experience suggests. What a file may not hold at all is refused in `loading`, before any rule sees it.
"""

from collections.abc import Collection

from cai.constitution import lint_whole, lint_wording
from cai.constitution.findings import Finding, Rule, Subject
from cai.constitution.model import Constitution, nearest
from cai.constitution.released import NOTHING_RELEASED, Released
from cai.errors import InputError

RULES: dict[str, Rule] = {
    "changed-release": Rule("error", lint_whole.changed_release),
    "copied-text": Rule("error", lint_wording.copied_text),
    "frame-markup": Rule("error", lint_wording.frame_markup),
    "missing-critique": Rule("error", lint_whole.missing_critique),
    "missing-revision": Rule("error", lint_whole.missing_revision),
    "placeholder-text": Rule("error", lint_wording.placeholder_text),
    "same-answers": Rule("error", lint_whole.same_answers),
    "contradictory-pair": Rule("warning", lint_whole.contradictory_pair),
    "dominant-weight": Rule("warning", lint_whole.dominant_weight),
    "example-in-tests": Rule("warning", lint_whole.example_in_tests),
    "idle-example": Rule("warning", lint_whole.idle_example),
    "missing-preference": Rule("warning", lint_whole.missing_preference),
    "near-duplicate": Rule("warning", lint_whole.near_duplicate),
    "negative-only": Rule("warning", lint_wording.negative_only),
    "no-counterweight": Rule("warning", lint_whole.no_counterweight),
    "odd-characters": Rule("warning", lint_wording.odd_characters),
    "preference-form": Rule("warning", lint_wording.preference_form),
    "repeated-prompt": Rule("warning", lint_whole.repeated_prompt),
    "unserved-use": Rule("warning", lint_whole.unserved_use),
    "vague-text": Rule("warning", lint_wording.vague_text),
    "critique-form": Rule("advice", lint_wording.critique_form),
    "length-tells": Rule("advice", lint_whole.length_tells),
    "long-text": Rule("advice", lint_wording.long_text),
    "many-questions": Rule("advice", lint_wording.many_questions),
    "missing-tests": Rule("advice", lint_whole.missing_tests),
    "negligible-weight": Rule("advice", lint_whole.negligible_weight),
    "no-honesty": Rule("advice", lint_whole.no_honesty),
    "revision-form": Rule("advice", lint_wording.revision_form),
}


def lint(
    constitution: Constitution, released: Released = NOTHING_RELEASED, ignore: Collection[str] = ()
) -> list[Finding]:
    """What the rules find, from the top of the file down."""
    for name in ignore:
        if name not in RULES:
            raise InputError("--ignore", "there is no such rule", name, nearest(name, list(RULES)))
    subject = Subject(constitution, released)
    found = [
        Finding(name, rule.severity, note.line, note.message, note.advice)
        for name, rule in RULES.items()
        if name not in ignore
        for note in rule.check(subject)
    ]
    return sorted(found, key=lambda finding: (finding.line, finding.rule, finding.message))
