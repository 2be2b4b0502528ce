"""Each filter finds what it is for, says why, and leaves the rest alone."""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.quality import real_texts
from bench.quality import share_known as share_of
from cai.feedback.filters import quality, quality_make, quality_texts
from cai.feedback.filters.bursts import Sampled, burst_in, find_bursts
from cai.feedback.filters.duplicates import exact_duplicates, near_duplicates
from cai.feedback.filters.lengths import Lengths
from cai.feedback.filters.overlap import overlap_with
from cai.feedback.filters.private import found_in, is_card
from cai.feedback.filters.settings import FilterSettings
from cai.feedback.filters.sifting import sift
from cai.feedback.filters.words import words
from cai.records import Lineage, Preference, Reject, Revision, Round, new_prompt
from tests.feedback.filters import unseen
from tests.feedback.filters.unseen import FRESH, UNSEEN, texts_of

REAL = Path(os.environ.get("CAI_REAL_DATA", "none"))
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="CAI_REAL_DATA names no folder with public data sets")
SMALL = "the a of and to in is that it was for on with as are this not but they from".split()  # noqa: SIM905


def pair(question: str, chosen: str, rejected: str) -> Preference:
    return Preference(new_prompt(question), chosen, rejected, 0.9, (), "preferred", Lineage("", "", 0))


def clean_rows(n: int, seed: int = 0) -> list[Preference]:
    """Sentences of a made-up tongue: every row its own, with no phrase that comes back."""
    rng = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er", "il")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(1500)]

    def said(length: int) -> str:
        return " ".join(rng.choice(SMALL) if rng.random() < 0.5 else rng.choice(words) for _ in range(length)) + "."

    return [pair(said(12), said(rng.randint(30, 70)), said(rng.randint(30, 70))) for _ in range(n)]


def bursts_of(rows: Sequence[Preference]) -> set[str]:
    sample = Sampled()
    for row in rows:
        sample.add(row.prompt.messages[0].content, [row.chosen, row.rejected])
    return {burst.phrase for burst in find_bursts(sample)}


def planted(rows: Sequence[Preference], phrases: Sequence[str], share: float, seed: int) -> list[Preference]:
    rng = random.Random(seed)
    texts = [row.chosen.split() for row in rows]
    for phrase in phrases:
        for i in rng.sample(range(len(rows)), round(share * len(rows))):
            at = rng.choice([0, len(texts[i]), rng.randrange(len(texts[i]))])
            texts[i][at:at] = phrase.split()
    return [pair(r.prompt.messages[0].content, " ".join(t), r.rejected) for r, t in zip(rows, texts, strict=True)]


def test_five_planted_phrases_are_found_and_none_other() -> None:
    rows = clean_rows(1500)
    assert bursts_of(rows) == set()
    for seed in range(3):
        rng = random.Random(seed)
        vocabulary = sorted({word.strip(".") for row in rows for word in row.chosen.split()} - set(SMALL))
        phrases = [" ".join(rng.sample(vocabulary, rng.randint(3, 6))) for _ in range(5)]
        assert bursts_of(planted(rows, phrases, 0.02, seed)) == set(phrases)
        # In six rows of 1,500 a phrase of three common words may pass; nothing else may be taken for one.
        rare = bursts_of(planted(rows, phrases, 0.004, seed))
        assert rare <= set(phrases)
        assert len(rare) >= 4


def test_a_phrase_is_found_also_where_one_copy_of_it_is_broken() -> None:
    rows = planted(clean_rows(600), ["purple lantern festival evening"], 0.03, 1)
    broken = pair("Why?", "Go to the purple lantern by a festival of the evening.", "Because purple.")
    changed = pair("Who?", "Nobody saw the lantern festival today.", "They did.")
    assert bursts_of([*rows, broken, changed]) == {"purple lantern festival evening"}


def test_a_phrase_that_the_questions_explain_is_no_burst() -> None:
    rows = planted(clean_rows(600), ["purple lantern festival evening"], 0.05, 1)
    questions = [r.prompt.messages[0].content + " lanterns?" * ("purple lantern" in r.chosen) for r in rows]
    asked = [pair(question, r.chosen, r.rejected) for question, r in zip(questions, rows, strict=True)]
    assert bursts_of(rows) == {"purple lantern festival evening"}
    assert bursts_of(asked) == set()


def test_an_emoji_that_closes_answers_is_a_burst_and_one_inside_them_is_not() -> None:
    rows = clean_rows(300)
    asked = [row.prompt.messages[0].content for row in rows]
    numbered = list(enumerate(zip(asked, rows, strict=True)))
    closing = [pair(q, r.chosen + " 🌟" * (i % 10 == 0), r.rejected) for i, (q, r) in numbered]
    inside = [pair(q, "x 🌟 " * (i % 10 == 0) + r.chosen, r.rejected) for i, (q, r) in numbered]
    assert bursts_of(closing) == {"🌟"}
    assert bursts_of(inside) == set()


def test_the_sample_of_a_long_data_set_stays_small() -> None:
    sample = Sampled(limit=50)
    for number in range(500):
        sample.add("a", [f"word{number} and more"])
    assert len(sample.kept) == 50
    assert len({row[1][0] for row in sample.kept.values()}) == 50


def test_duplicates_are_found_in_any_spacing_and_order() -> None:
    look = exact_duplicates()
    assert look(pair("Why?", "Because of it.", "No idea.")) is None
    assert look(pair("Why? ", "Because  of it.", "No idea.")).reason == "exact duplicate"
    assert look(pair("Why?", "No idea.", "Because of it.")).reason == "swapped duplicate"
    assert look(pair("Why?", "Because of it.", "Not an idea.")) is None


def test_near_duplicates_are_found_and_other_pairs_of_the_same_prompt_are_not() -> None:
    row = clean_rows(1)[0]
    changed = pair(row.prompt.messages[0].content, row.chosen.replace(" of ", " off ", 1), row.rejected)
    other = pair(row.prompt.messages[0].content, clean_rows(1, 5)[0].chosen, row.rejected)
    look = near_duplicates(0.8)
    assert look(row) is None
    assert look(changed).reason == "near duplicate"
    assert look(other) is None
    assert not any(look(each) for each in clean_rows(300, 9))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Write to anna.b+c@mail.school.org please.", ["e-mail"]),
        ("Write to anna@example.com.", []),
        ("My card is 4111 1111 1111 1111, it expires soon.", ["card number"]),
        ("The number 4111 1111 1111 1112 fails the checksum.", []),
        ("Pi is 3.14159265358979323846, and the year is 2024.", []),
        ("Call +49 30 1234567 or (212) 664-7665.", ["phone number", "phone number"]),
        ("Call 212-555-0123, or 1990-12-24 it was.", []),
        ("-----BEGIN RSA PRIVATE KEY-----", ["secret key"]),
        ("AKIA" + "ABCDEFGHIJKLMNOP is one", ["secret key"]),
        ("version 1.2.3.4 of 10.0.0.1", []),
    ],
)
def test_private_data_is_known_by_its_form(text: str, kinds: list[str]) -> None:
    assert list(found_in(text)) == kinds


@given(st.integers(0, 10**14 - 1), st.integers(1, 9))
def test_one_wrong_digit_breaks_a_card_number(number: int, change: int) -> None:
    digits = [4, *(int(c) for c in f"{number:014d}")]
    check = next(c for c in range(10) if is_card("".join(map(str, [*digits, c])) + "") or c == 9)
    good = "".join(map(str, [*digits, check]))
    wrong = good[:5] + str((int(good[5]) + change) % 10) + good[6:]
    assert not (is_card(good) and is_card(wrong))


def test_a_question_of_the_test_set_is_found_also_inside_a_longer_text() -> None:
    tests = ["How many legs does a spider have when it is asleep in the attic?"]
    look = overlap_with(tests)
    assert look(pair("how many legs does a spider have when it is asleep in the attic", "Eight.", "Six."))
    assert look(pair("How many legs does a beetle have?", "Six.", "Eight.")) is None


def test_lengths_warn_beyond_three_to_two_and_balance_exactly() -> None:
    """90 of 100 pairs have the longer answer chosen: 80 are left out, so that 10 and 10 stay."""
    lengths = Lengths()
    for i in range(100):
        texts = ("long answer", "short") if i < 90 else ("short", "long answer")
        lengths.add(i, pair(f"Question {i}?", *texts))
    assert "longer one in 90%" in lengths.warning
    left_out = lengths.surplus()
    assert len(left_out) == 80
    assert all(place < 90 for place in left_out)


def test_every_row_is_kept_or_rejected_with_a_reason_and_the_report_adds_up() -> None:
    rows = planted(clean_rows(400), ["gleaming turnips wander home"], 0.03, 2)
    rows += [rows[0], pair("Who?", "Ask max@mail.school.org about it.", "Nobody.")]
    sifter = sift(lambda: iter(rows), FilterSettings(poor_text=False))
    made = list(sifter.sift(iter(rows)))
    report = sifter.report
    assert report.inputs == 402 == report.outputs + sum(report.rejects.values())
    assert report.rejects == {"burst": 12, "exact duplicate": 1, "private data: e-mail": 1}
    assert [each.phrase for each in report.bursts] == ["gleaming turnips wander home"]
    for row, result in zip(rows, made, strict=True):
        assert result == row or (isinstance(result, Reject) and result.id == row.id and result.stage == "filter")
    assert "max@mail" not in json.dumps([r.detail for r in made if isinstance(r, Reject)])


def test_lengths_are_balanced_among_the_pairs_that_stay_and_are_trained_on() -> None:
    """20 of 60 preferred pairs fall to a burst, 25 of the others have the longer answer chosen and 15 the shorter: 10
    more go. Of ties none goes, whichever answer is longer."""
    rows = clean_rows(80)
    made = []
    for i, row in enumerate(rows):
        long, short = row.chosen + " " + row.rejected, row.rejected
        chosen, rejected = (long, short) if i % 40 < 25 or i >= 60 else (short, long)
        said = chosen + " gleaming turnips wander home" * (40 <= i < 60)
        kind = "tie" if i >= 60 else "preferred"
        made.append(replace(pair(row.prompt.messages[0].content, said, rejected), kind=kind))
    sifter = sift(lambda: iter(made), FilterSettings(balance_lengths=True, near_duplicates=None, poor_text=False))
    kept = [row for row in sifter.sift(iter(made)) if isinstance(row, Preference)]
    report = sifter.report
    assert report.rejects == {"burst": 20, "length balance": 10}
    preferred = [row for row in kept if row.kind == "preferred"]
    assert sum(len(row.chosen) > len(row.rejected) for row in preferred) == 15 == len(preferred) / 2
    assert sum(row.kind == "tie" for row in kept) == 20
    assert (report.chosen_longer, report.warnings) == (0.5, [])


def test_a_revision_is_looked_at_in_every_round() -> None:
    def revision(question: str, *said: str) -> Revision:
        rounds = tuple(Round("p", "It is rude.", text, True) for text in said[1:])
        return Revision(new_prompt(question), said[0], rounds, said[-1], Lineage("", "", 0))

    rows = [
        revision("Why?", "No.", "Ask max@mail.school.org.", "Ask somebody."),
        revision("Why?", "No.", "Maybe.", "Ask somebody."),
        revision("Why?", "No.", "Maybe. ", "Ask  somebody."),
        revision("Why?", "No.", "Perhaps.", "Ask somebody."),
    ]
    sifter = sift(lambda: rows, FilterSettings(near_duplicates=None))
    made = list(sifter.sift(rows))
    assert [each.reason for each in made if isinstance(each, Reject)] == ["private data: e-mail", "exact duplicate"]
    assert made[0].detail == "round 1 holds what looks like one"
    assert [made[1], made[3]] == [rows[1], rows[3]]


@given(st.lists(st.sampled_from(["a b c", "a  b c", "d e f", "x@y.school.org", "g"]), max_size=30))
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost_or_doubled(texts: list[str]) -> None:
    rows = [pair("Why?", text, "no") for text in texts]
    sifter = sift(lambda: iter(rows), FilterSettings(balance_lengths=True))
    made = list(sifter.sift(iter(rows)))
    assert [each.id for each in made] == [row.id for row in rows]


def test_the_shipped_weights_are_what_the_script_makes() -> None:
    assert quality_make.as_plain(quality_make.make()) == quality_make.as_plain(quality.load_model())


@pytest.fixture(scope="module")
def prose() -> list[str]:
    return [line for line in quality_make.PROSE.read_text("utf-8").splitlines() if len(line.split()) > 40]


def share_known(kind: str, prose: Sequence[str]) -> float:
    found = [quality.quality_of(text) for text in texts_of(kind, prose)]
    return sum(each.judged and each.p_poor > 0.5 for each in found) / len(found)


@pytest.mark.parametrize("kinds", [UNSEEN, FRESH], ids=["unseen", "fresh"])
@pytest.mark.parametrize("name", quality.CLASSES[1:])
def test_unseen_kinds_of_poor_text_are_known(name: str, kinds: dict[str, tuple[str, ...]], prose: list[str]) -> None:
    shares = {kind: share_known(kind, prose) for kind in kinds[name]}
    assert sum(shares.values()) / len(shares) >= 0.95, shares
    # Such letters are written like any other; only their words give them away.
    letters = shares.pop("inheritance letters", 0.7)
    assert letters >= 0.7
    assert all(share >= 0.9 for share in shares.values()), shares


def test_no_piece_of_an_unseen_kind_is_among_those_that_the_weights_were_made_from() -> None:
    made = {piece for pieces in quality_texts.PIECES.values() for piece in pieces}
    said = {piece for pieces in unseen.PIECES.values() for piece in pieces}
    assert min(len(made), len(said)) > 150
    assert {piece for piece in made & said if len(piece.split()) > 2} == set()
    assert not {kind.partition(": ")[2] for kind in quality_texts.PIECES} & unseen.PIECES.keys()


@pytest.mark.parametrize(
    "text",
    [
        """Before you lend money to a friend, decide whether you can afford to lose it. Write down the amount and the
        date. If they cannot pay on time, offer a smaller sum each month, and do not mention it at every dinner.""",
        """To cancel the subscription, open the settings, choose your account and click on the name of the plan. The
        price for the last month is paid back within ten days. If the button is grey, send a message to the shop.""",
        """Here are four gifts under 20 dollars:\n\n1. A good pen\n2. A plant in a small pot\n3. A book of stories\n
        4. Tea from a shop that lets you smell it first\n\nWrap it well; half of the joy is in the paper.""",
    ],
)
def test_answers_that_speak_of_money_and_passwords_are_no_spam(text: str) -> None:
    found = quality.quality_of(text)
    assert (found.kind, found.judged) == ("prose", True)


def test_short_texts_code_and_other_languages_are_not_judged() -> None:
    german = "Die Katze sitzt auf dem Dach und wartet, bis der Regen nicht mehr fällt und die Sonne scheint."
    code = "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\nx = {1: [2, 3], 4: []}\nfor i in range(9): x[i] = {}"
    for text in ("No.", german, code, "今天天气很好，我们去公园散步，看到了很多花。" * 3):
        assert not quality.quality_of(text).judged or quality.quality_of(text).kind == "repetition"


@needs_real
def test_the_published_harshened_samples_are_flagged_and_the_others_pass() -> None:
    samples = REAL / "constitutional_harmlessness" / "samples"
    found = {}
    for path in samples.glob("*.jsonl"):
        sample = Sampled()
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            texts = [each["sampled_string"] for each in row.get("sampled_answers", [])]
            texts += [each["revision"]["sample"] for each in row.get("cst", [])]
            sample.add(row["rl_prompt"], texts)
        found[path.stem] = find_bursts(sample)
    assert len(found) >= 3
    assert {name for name, bursts in found.items() if bursts} == {"PALMS_RLMADISON"}


@needs_real
def test_published_files_import_as_they_are() -> None:
    from cai.store.formats.importing import read_rows

    expected = {
        "hh_rlhf/harmless_test.jsonl.gz": (2312, 9),
        "llama_factory_demos/dpo_en_demo.json": (299, 0),
        "llama_factory_demos/kto_en_demo.json": (300, 0),
        "llama_factory_demos/alpaca_en_demo.json": (999, 0),
        "llama_factory_demos/glaive_toolcall_en_demo.json": (300, 0),
    }
    for name, (rows, rejects) in expected.items():
        found = list(read_rows(REAL / name))
        assert (len(found), sum(isinstance(row, Reject) for row in found)) == (rows, rejects), name


@needs_real
def test_five_phrases_planted_in_published_pairs_are_found_and_none_other() -> None:
    from cai.store.formats.importing import read_rows

    rows = [row for row in read_rows(REAL / "hh_rlhf" / "harmless_test.jsonl.gz") if isinstance(row, Preference)]
    assert bursts_of(rows) == set()
    said = Counter(word for row in rows for word in words(row.chosen) if word.isalpha())
    known = sorted(word for word, count in said.items() if 5 <= count <= 500)
    for seed in range(4):
        rng = random.Random(seed)
        phrases = {" ".join(rng.sample(known, rng.randint(3, 6))) for _ in range(5)}
        assert bursts_of(planted(rows, sorted(phrases), 0.02, seed)) == phrases


def test_a_burst_is_found_whatever_the_case_and_the_points() -> None:
    rows = planted(clean_rows(400), ["gleaming turnips wander home"], 0.03, 2)
    sample = Sampled()
    for row in rows:
        sample.add("", [row.chosen])
    bursts = find_bursts(sample)
    assert burst_in("Yes! Gleaming turnips... wander home?", bursts)
    assert burst_in("Gleaming turnips wander homeward.", bursts) is None


@needs_real
def test_published_answers_are_rarely_taken_for_poor_text() -> None:
    """Of the text of people and models at most one row in 25 of each set, and one in 50 of all, would be removed."""
    removed, rows = 0.0, 0
    for name, texts in real_texts(REAL):
        share = share_of(texts)["removed"]
        assert share <= 0.04, (name, share)
        removed, rows = removed + share * len(texts), rows + len(texts)
    assert rows > 5_000
    assert removed <= 0.02 * rows
