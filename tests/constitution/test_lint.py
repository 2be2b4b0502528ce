"""Each lint rule on a case that it must find, by line, and on a near one that it must leave alone."""

import json
from dataclasses import replace

import pytest

from cai.constitution.findings import Finding
from cai.constitution.lint import RULES, lint
from cai.constitution.loading import parse_constitution
from cai.constitution.released import NOTHING_RELEASED, Digests, Released
from cai.errors import InputError

CLEAN = {
    "critique": "Point out claims in the last answer that are made up.",
    "revision": "Replace what is made up with what is known.",
    "preference": "Which answer holds fewer made-up claims?",
}
TEST = ("Who wrote Faust?", "Goethe wrote it.", "Schiller wrote it.")
LONG = " ".join(["Point out claims"] * 27)
EXAMPLE = "examples:\n  comparisons:\n    - {principle: p, prompt: PROMPT, better: yes, worse: no}"

SHOWN = "examples:\n  critiques:\n    - {principle: p, prompt: x, answer: a, critique: c, revision: r}"


def block(name: str = "p", here: str = "", tests: tuple[tuple[str, str, str], ...] = (TEST,), **texts: str) -> str:
    """One principle; `# here` stands on the line where the finding belongs. An empty text is left out."""
    lines = [f"  - id: {name}", *(f"    {k}: {json.dumps(v)}" for k, v in ({**CLEAN, **texts}).items() if v)]
    lines += ["    tests:"] if tests else []
    lines += [f"      - {json.dumps(dict(zip(('prompt', 'better', 'worse'), t, strict=True)))}" for t in tests]
    at = {"id": 0, "tests": len(lines) - 1}.get(here, 0)
    if here in texts:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"    {here}:"))
    lines[at] += "  # here" if here else ""
    return "\n".join(lines) + "\n"


def file(*blocks: str, here: str = "", tail: str = "") -> str:
    mark = "  # here" if here else ""
    return f"id: x\nversion: 1.0.0\nprinciples:{mark}\n{''.join(blocks)}{tail}"


def one(key: str, bad: str, good: str) -> tuple[str, str]:
    """One principle with this text, which the rule objects to, or accepts."""
    return file(block(here=key, **{key: bad})), file(block(**{key: good}))


def asking(name: str, preference: str, here: str = "", weight: str = "1") -> str:
    return block(name, here, (TEST,), critique="", revision="", preference=preference, weight=weight)


def trial(*tests: tuple[str, str, str], here: str = "") -> str:
    return file(block(here=here, tests=tests))


HARM = asking("a", "Which answer is of less use for doing harm?")
THREE = [asking(name, f"Which answer is {quality}?") for name, quality in (("a", "red"), ("b", "tall"), ("c", "round"))]
COPY = {"critique": CLEAN["critique"].replace("made up", "pure fiction"), "preference": CLEAN["preference"]}
OTHER = {"critique": "Does it wander off?", "revision": "Come to the point.", "preference": "Which answer is nearer?"}

CASES: list[tuple[str, tuple[str, str]]] = [
    ("vague-text", one("critique", "Say what is wrong with the answer.", "Say what is invented in the answer.")),
    ("vague-text", one("preference", "Which response is better overall?", "Which response is kinder overall?")),
    ("negative-only", one("revision", "Rewrite the answer so that it is not rude.", "Rewrite it: not rude, but kind.")),
    ("negative-only", one("revision", "Remove insults, threats and slurs.", "Remove insults; keep the facts.")),
    ("negative-only", one("revision", "Rewrite the answer. Don't lie.", "Rewrite the answer so that it is true.")),
    ("long-text", one("critique", LONG, " ".join(LONG.split()[:80]))),
    ("placeholder-text", one("critique", "TODO find claims", "Find claims; there is a lot to do.")),
    ("placeholder-text", one("critique", "Find claims about {topic}.", "Find claims about (one) topic.")),
    ("placeholder-text", one("revision", "[Insert the revision]", "Insert the missing [sic] words.")),
    ("placeholder-text", (trial(("…", "Yes", "No"), here="tests"), trial(("…?!x", "def f(x): {x}", "No")))),
    ("frame-markup", one("preference", "Is answer A kinder than answer B?", "Is an answer as kind as a letter?")),
    ("frame-markup", one("preference", "Which answer, (A) or (B), is kinder?", "Which answer (of a kind) is kinder?")),
    ("frame-markup", one("critique", "Find claims. <|im_end|>", "Find claims | or none.")),
    ("frame-markup", one("critique", "CritiqueRequest: find claims.", "Find requests for critique.")),
    ("frame-markup", one("revision", "Write [3f9c] after it.", "Write [sic] after it.")),
    ("critique-form", one("critique", "Harmful claims in it.", "Are harmful claims in it?")),
    ("critique-form", one("critique", "The answer has claims.", "Please list the answer's claims.")),
    ("revision-form", one("revision", "The answer should be true.", "Let the answer be true.")),
    ("revision-form", one("revision", "Keep it true?", "Keep it true.")),
    ("preference-form", one("preference", "An answer that is kinder.", "Choose the answer that is kinder.")),
    (
        "many-questions",
        one("preference", "Which answer is kind? Which is true?", "Which answer is kind where it is hard?"),
    ),
    (
        "many-questions",
        one("preference", "Which answer is more kind, true and useful?", "Which is kind, or true and cold?"),
    ),
    ("copied-text", one("revision", CLEAN["critique"], CLEAN["revision"])),
    ("odd-characters", one("critique", "Point out cl\u0430ims.", "Point out слова, naïve or not.")),
    ("odd-characters", one("critique", "Point out\u200b claims.", "Point out – “claims”.")),
    ("missing-critique", (file(block(here="id", critique="")), file(block(critique="", revision="")))),
    ("missing-revision", (file(block(here="id", revision="")), file(block(critique="", revision="")))),
    ("missing-preference", (file(block(here="id", preference="")), file(block()))),
    ("unserved-use", (file(HARM, here="principles"), file(HARM, block("b")))),
    ("unserved-use", (file(block(preference=""), here="principles"), file(HARM, block(preference="")))),
    ("near-duplicate", (file(block(), block("q", here="id", **COPY)), file(block(), block("q", **OTHER)))),
    (
        "contradictory-pair",
        (
            file(
                asking("a", "Which answer is shorter?"),
                asking("b", "Which answer is more detailed?", here="preference"),
            ),
            file(asking("a", "Which answer is shorter?"), asking("b", "Which answer is more vivid?")),
        ),
    ),
    (
        "contradictory-pair",
        (
            file(asking("a", "Which answer is more formal?"), asking("b", "Which is less formal?", here="preference")),
            file(asking("a", "Which answer is more formal?"), asking("b", "Which is the more formal one?")),
        ),
    ),
    (
        "dominant-weight",
        (
            file(*THREE, asking("d", "Which answer is new?", here="weight", weight="3.1")),
            file(*THREE, asking("d", "Which answer is new?", weight="3")),
        ),
    ),
    (
        "negligible-weight",
        (
            file(*THREE, asking("d", "Which answer is new?", here="weight", weight="0.01")),
            file(*THREE, asking("d", "Which answer is new?", weight="0.1")),
        ),
    ),
    ("no-counterweight", (file(HARM, here="principles"), file(HARM, asking("b", "Which answer is more useful?")))),
    (
        "no-honesty",
        (
            file(*THREE, asking("d", "Which is new?"), here="principles"),
            file(*THREE, asking("d", "Which is honest?")),
        ),
    ),
    ("missing-tests", (file(block(here="id", tests=())), file(block()))),
    ("same-answers", (trial(("a", "Yes,  it is.", "yes, it IS."), here="tests"), trial(("a", "x + 1", "x - 1")))),
    (
        "repeated-prompt",
        (
            trial(("Is 7 prime?", "Yes", "No"), ("is 7 PRIME", "Yes", "Nope"), here="tests"),
            trial(("Is 7 prime?", "Yes", "No"), ("Is 8 prime?", "No", "Yes")),
        ),
    ),
    (
        "length-tells",
        (
            file(block(tests=tuple((f"a{i}", "longer than it", "short") for i in range(4))), here="principles"),
            trial(("b", "short", "longer than it"), *((f"a{i}", "longer than it", "short") for i in range(4))),
        ),
    ),
    (
        "example-in-tests",
        (
            file(block(), tail=EXAMPLE.replace("PROMPT", "who wrote faust") + "  # here\n"),
            file(block(), tail=EXAMPLE.replace("PROMPT", "Who wrote Macbeth?")),
        ),
    ),
    (
        "idle-example",
        (
            file(block(preference=""), tail=EXAMPLE.replace("PROMPT", "Who wrote Macbeth?") + "  # here\n"),
            file(block(), tail=EXAMPLE.replace("PROMPT", "Who wrote Macbeth?")),
        ),
    ),
    (
        "idle-example",
        (
            file(HARM, block("p", critique="", revision=""), tail=SHOWN + "  # here\n"),
            file(HARM, block("p"), tail=SHOWN),
        ),
    ),
]


def found(text: str, rule: str, released: Released = NOTHING_RELEASED) -> list[Finding]:
    return [finding for finding in lint(parse_constitution(text, "x.yaml"), released) if finding.rule == rule]


@pytest.mark.parametrize(("rule", "texts"), CASES, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(CASES)])
def test_a_rule_finds_its_case_by_line_and_leaves_its_neighbour_alone(rule: str, texts: tuple[str, str]) -> None:
    bad, good = texts
    line = next(number for number, text in enumerate(bad.splitlines(), 1) if text.endswith("# here"))
    findings = found(bad, rule)
    assert {finding.line for finding in findings} == {line}
    assert all(finding.message and finding.advice for finding in findings)
    assert {finding.severity for finding in findings} == {RULES[rule].severity}
    assert found(good, rule) == []


def test_a_release_that_changed_is_found_at_its_version(sample_text: str) -> None:
    before = parse_constitution(sample_text, "x.yaml")
    digests = Digests(behaviour=before.behaviour_digest, release=before.release_digest)
    released = Released({"sample": {"1.2.0": digests}})
    changed = sample_text.replace("wander off", "ramble")
    assert [finding.line for finding in found(changed, "changed-release", released)] == [2]
    assert found(changed.replace("1.2.0", "1.3.0"), "changed-release", released) == []
    assert found(sample_text, "changed-release", released) == []


def test_every_rule_is_tested() -> None:
    assert {rule for rule, _ in CASES} | {"changed-release"} == set(RULES)
    assert len(RULES) >= 12


def test_findings_come_from_the_top_of_the_file_down() -> None:
    text = file(
        block("b", critique="TODO"), block("a", tests=(), critique="", revision="Don't.", preference=""), block("c")
    )
    with pytest.raises(InputError, match="could never be used"):
        parse_constitution(text, "x.yaml")
    findings = lint(parse_constitution(text.replace("Don't.", 'Don\'t."\n    critique: "Wrong.'), "x.yaml"))
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)
    assert len({finding.rule for finding in findings}) > 3


def test_a_rule_can_be_left_out_and_an_unknown_one_is_refused() -> None:
    constitution = parse_constitution(file(block(critique="Find claims TODO")), "x.yaml")
    assert [finding.rule for finding in lint(constitution)] == ["placeholder-text"]
    assert lint(constitution, ignore=["placeholder-text"]) == []
    with pytest.raises(InputError, match="no such rule, got placeholder; did you mean 'placeholder-text'"):
        lint(constitution, ignore=["placeholder"])


def test_the_clean_case_is_clean(sample_text: str) -> None:
    assert lint(parse_constitution(file(block()), "x.yaml")) == []
    assert lint(parse_constitution(sample_text, "x.yaml")) == []


def test_the_order_of_principles_does_not_change_what_is_found() -> None:
    constitution = parse_constitution(file(*THREE, block("d", critique="TODO")), "x.yaml")
    turned = replace(constitution, principles=constitution.principles[::-1])
    assert lint(turned) == lint(constitution)
