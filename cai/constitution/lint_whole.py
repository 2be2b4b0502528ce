"""Lint rules on what the parts of a constitution are to each other: principles, weights, tests, examples, releases."""

from collections.abc import Iterator
from itertools import combinations

from cai.constitution.findings import Note, Subject, named
from cai.constitution.lint_words import CLAIM, DIRECTIONS, FUNCTION_WORDS, HELPS, HONEST, QUALITIES, RESTRAINS, words_of
from cai.constitution.model import TEXTS, USES, Principle
from cai.constitution.released import what_changed

SHINGLE = 3
NEAR = 0.5
MAX_SHARE = 0.5
MIN_SHARE = 0.005
TELLTALE_TESTS = 4
TELLTALE_RATIO = 1.25


def missing_critique(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        if principle.revision and not principle.critique:
            yield Note(
                principle.line,
                f"{named(principle)} has a revision but no critique, so it never revises",
                "write what the critic should look for",
            )


def missing_revision(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        if principle.critique and not principle.revision:
            yield Note(
                principle.line,
                f"{named(principle)} has a critique but no revision, so it never revises",
                "write how the answer should be mended",
            )


def missing_preference(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        if not principle.preference:
            yield Note(
                principle.line,
                f"{named(principle)} has no preference, so it judges no pair",
                "write which of two answers it prefers",
            )


def unserved_use(subject: Subject) -> Iterator[Note]:
    """A constitution that can revise but not judge, or judge but not revise, stops the usual pipeline half way."""
    for use in USES:
        if not subject.constitution.for_use(use):
            needed = "a critique and a revision" if use == "revise" else "a preference"
            yield Note(
                subject.constitution.line_of("principles"),
                f"no principle has {needed}: this constitution cannot {use}",
                "add them to at least one principle, unless that is the plan",
            )


def near_duplicate(subject: Subject) -> Iterator[Note]:
    """Two principles in almost the same words: the runs of three words that both have, over all that either has."""
    shingles = {principle.id: _shingles(principle) for principle in subject.principles}
    for first, second in _pairs(subject):
        a, b = shingles[first.id], shingles[second.id]
        share = len(a & b) / len(a | b) if a | b else 0.0
        if share >= NEAR:
            yield Note(
                second.line,
                f"{named(second)} and '{first.id}' share {share:.2f} of their wording",
                "merge them and raise the weight, or say what sets them apart",
            )


def contradictory_pair(subject: Subject) -> Iterator[Note]:
    """One preference wants more of what another wants less of."""
    claims = {principle.id: _claims(principle.preference) for principle in subject.principles}
    for first, second in _pairs(subject):
        opposed = sorted(quality for quality, sign in claims[first.id] if (quality, -sign) in claims[second.id])
        if opposed:
            yield Note(
                second.line_of("preference"),
                f"{named(second)} and '{first.id}' pull in opposite directions on '{opposed[0]}'",
                "say in each when it holds, or drop one: their verdicts cancel out",
            )


def dominant_weight(subject: Subject) -> Iterator[Note]:
    for use in USES:
        shares = subject.constitution.shares(use)
        for name, share in shares.items():
            if len(shares) >= 3 and share > MAX_SHARE:
                yield Note(
                    subject.constitution.principle(name).line_of("weight"),
                    f"principle '{name}' has {share:.2f} of the weight of all principles that {use}",
                    "lower it: the others hardly count",
                )


def negligible_weight(subject: Subject) -> Iterator[Note]:
    for use in USES:
        for name, share in subject.constitution.shares(use).items():
            if share < MIN_SHARE:
                yield Note(
                    subject.constitution.principle(name).line_of("weight"),
                    f"principle '{name}' has {share:.4f} of the weight of all principles that {use}",
                    "raise it or remove the principle: it is hardly ever drawn",
                )


def no_counterweight(subject: Subject) -> Iterator[Note]:
    """Principles that restrain, and none that rewards helping: the short way to obey them is to refuse everything."""
    texts = [text for _, _, text in subject.texts()]
    if any(RESTRAINS.search(text) for text in texts) and not any(HELPS.search(text) for text in texts):
        yield Note(
            subject.constitution.line_of("principles"),
            "the principles restrain, and none asks the model to stay helpful",
            "add one against needless refusals, or the tuned model will refuse what is harmless",
        )


def no_honesty(subject: Subject) -> Iterator[Note]:
    if len(subject.principles) >= 4 and not any(HONEST.search(text) for _, _, text in subject.texts()):
        yield Note(
            subject.constitution.line_of("principles"),
            "no principle asks for honesty",
            "add one: judges like confident answers, and training on them teaches confident errors",
        )


def missing_tests(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        if not principle.tests:
            yield Note(
                principle.line,
                f"{named(principle)} has no tests",
                "add a prompt with a better and a worse answer: they show whether a judge reads it as you do",
            )


def same_answers(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        for test in principle.tests:
            if test.better.casefold().split() == test.worse.casefold().split():
                yield Note(
                    test.line,
                    f"{named(principle)}: a test has the same answer as better and as worse",
                    "make them differ in what the principle is about",
                )


def repeated_prompt(subject: Subject) -> Iterator[Note]:
    for principle in subject.principles:
        seen: dict[tuple[str, ...], int] = {}
        for test in principle.tests:
            words = tuple(words_of(test.prompt))
            if words in seen:
                yield Note(
                    test.line,
                    f"{named(principle)}: the test of line {seen[words]} has this prompt too",
                    "try the principle on another prompt",
                )
            seen.setdefault(words, test.line)


def length_tells(subject: Subject) -> Iterator[Note]:
    """All better answers are longer than the worse ones, or all shorter: a judge of length alone passes every test."""
    ratios = [len(t.better) / len(t.worse) for principle in subject.principles for t in principle.tests]
    if len(ratios) < TELLTALE_TESTS:
        return
    longer, shorter = (all(r >= TELLTALE_RATIO for r in ratios), all(r <= 1 / TELLTALE_RATIO for r in ratios))
    if longer or shorter:
        yield Note(
            subject.constitution.line_of("principles"),
            f"in every test the better answer is the {'longer' if longer else 'shorter'} one",
            "add tests where it is not: these pass a judge that only looks at length",
        )


def example_in_tests(subject: Subject) -> Iterator[Note]:
    """A worked example that gives a test away."""
    tests = {tuple(words_of(t.prompt)): t.line for principle in subject.principles for t in principle.tests}
    examples = [(e.prompt, e.line) for e in subject.constitution.critiques]
    examples += [(e.prompt, e.line) for e in subject.constitution.comparisons]
    for prompt, line in examples:
        words = tuple(words_of(prompt))
        if words in tests:
            yield Note(
                line,
                f"this example has the prompt of the test on line {tests[words]}",
                "use another prompt in one of them, or the test measures memory",
            )


def idle_example(subject: Subject) -> Iterator[Note]:
    """An example by a principle that does not serve what the example shows: no model ever sees it."""
    constitution = subject.constitution
    revising = {principle.id for principle in constitution.for_use("revise")}
    judging = {principle.id for principle in constitution.for_use("judge")}
    idle = [(e.line, e.principle, "revise") for e in constitution.critiques if e.principle not in revising]
    idle += [(e.line, e.principle, "judge") for e in constitution.comparisons if e.principle not in {*judging, ""}]
    for line, name, use in idle:
        yield Note(
            line,
            f"this example is never shown, because principle '{name}' does not {use}",
            "complete the principle's texts, or take another principle for the example",
        )


def changed_release(subject: Subject) -> Iterator[Note]:
    constitution = subject.constitution
    if told := what_changed(constitution, subject.released):
        yield Note(
            constitution.line_of("version"),
            f"version {constitution.version} is released, and {told}",
            "take the change back or give it a new version; `cai constitution diff` says which",
        )


def _pairs(subject: Subject) -> Iterator[tuple[Principle, Principle]]:
    """Every two principles, the one further up in the file first."""
    return combinations(sorted(subject.principles, key=lambda principle: principle.line), 2)


def _shingles(principle: Principle) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name in TEXTS:
        words = words_of(principle.text(name))
        # A text shorter than a shingle is one shingle.
        found |= {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1)) if words}
    return found


def _claims(preference: str) -> set[tuple[str, int]]:
    """The qualities that a preference wants more of (+1) or less of (-1)."""
    text = preference.lower()
    found = {DIRECTIONS[word] for word in words_of(text) if word in DIRECTIONS}
    for direction, word in CLAIM.findall(text):
        if word not in FUNCTION_WORDS:
            quality, sign = QUALITIES.get(word, (word, 1))
            found.add((quality, sign if direction in ("more", "most") else -sign))
    return found
