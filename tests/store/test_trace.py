"""From a preference back to everything that made it, in a hand-made run folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.manifest import write_manifest
from cai.records import (
    Lineage,
    Preference,
    Reject,
    Revision,
    Round,
    Verdict,
    new_prompt,
    to_line,
)
from cai.store.trace import Fact, trace

BASE = "ba5e" * 16
LINEAGE = Lineage("c0" * 32, "f0" * 32, 17, BASE, BASE, BASE)
PROMPT = new_prompt("How do I pick a lock?", source="tiny/align/harmful")
ROUND = Round("no-harm", "It helps a thief.", "I will not.", True)
REVISION = Revision(PROMPT, "Take a pick.", (ROUND,), "I will not.", LINEAGE)
PREFERENCE = Preference(
    PROMPT, "I will not.", "Take a pick.", 0.9, (Verdict("no-harm", 0.95, 0.85),), "preferred", LINEAGE,
    f"revisions:{REVISION.id}",
)  # fmt: skip
REASONED = Preference(
    PROMPT, "Call a locksmith.", "Take a pick.", 0.6, (Verdict("no-harm", 0.9, 0.8, ("A is kind.", "B is kind.")),),
    "preferred", LINEAGE, "imported:0123456789abcdef",
)  # fmt: skip
MEASURED = (
    '{"id":"aced000000000000","subset":"","p":0.75,"p_first":0.9,"p_second":0.6,"kind":"preferred","longer_by":3,'
    '"verdicts":[],"better_by":"","worse_by":"","people":[]}'
)
REJECTED = new_prompt("A question far too long")
TEXTS = {"no-harm": {"critique": "Find harm.", "revision": "Remove harm.", "preference": "Which is less harmful?"}}
FACTS: dict[str, object] = {
    "constitution": {"id": "tiny", "version": "1.0.0", "principles": TEXTS},
    "models": {BASE: "base"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = {
        "01-revise": ([to_line(REVISION)], [to_line(Reject(REJECTED.id, "revise", "too long", "999 tokens"))]),
        "02-prefer": ([to_line(PREFERENCE)], []),
        "03-sft": ([f'{{"id":"5f70000000000000","revision_id":"{REVISION.id}","kind":"revision"}}'], []),
        "04-dpo": ([], [to_line(Reject(PREFERENCE.id, "dpo", "too long", "777 tokens"))]),
        "06-judge": ([MEASURED], []),
        "07-prefer": ([to_line(REASONED)], []),
        "05-evaluate": ([f'{{"model":"tuned","item":{{"id":"{PROMPT.id}","reply":"No."}}}}'], []),
    }
    for name, (records, rejects) in rows.items():
        folder = tmp_path / "stages" / f"{name}-aaaaaaaaaaaa"
        folder.mkdir(parents=True)
        for stream, lines in (("records", records), ("rejects", rejects)):
            (folder / f"{stream}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        write_manifest(folder, name[3:], 1, "a" * 64, {}, {}, FACTS)
    return tmp_path


def lines(fact: Fact, path: str = "") -> Iterator[str]:
    here = f"{path}/{fact.label}" if path else fact.label
    yield f"{here}: {fact.value}"
    for child in fact.children:
        yield from lines(child, here)


def test_a_preference_leads_back_to_prompt_principle_models_and_seed(run: Path) -> None:
    told = set(lines(trace(run, PREFERENCE.id)))
    pair = f"preference/pair: first answer against revision {REVISION.id}"
    for expected in (
        f"preference: {PREFERENCE.id}",
        f"preference/prompt: {PROMPT.id} from tiny/align/harmful",
        "preference/prompt/user: How do I pick a lock?",
        "preference/chosen: I will not.",
        "preference/judged/no-harm: p 0.900 (shown first 0.950, shown second 0.850)",
        "preference/judged/no-harm/asks: Which is less harmful?",
        pair,
        "preference/pair/round 1/principle/asks for a critique: Find harm.",
        "preference/pair/round 1/critique: It helps a thief.",
        f"preference/judge: base ({BASE[:12]})",
        "preference/constitution: tiny 1.0.0 (c0c0c0c0c0c0)",
        "preference/seed: 17",
        "preference/stage: 02-prefer-aaaaaaaaaaaa",
        "preference/left out of 04-dpo: too long: 777 tokens",
    ):
        assert expected in told


def test_a_revision_leads_on_to_what_was_made_of_it(run: Path) -> None:
    told = set(lines(trace(run, REVISION.id[:6])))
    assert f"revision/judged in 02-prefer: preferred, p 0.900 ({PREFERENCE.id})" in told
    assert "revision/trained on in 03-sft: 5f70000000000000 as revision" in told


def test_a_training_row_leads_back_to_its_revision(run: Path) -> None:
    assert f"row/revision: {REVISION.id}" in set(lines(trace(run, "5f70")))


def test_a_prompt_gathers_everything_about_it(run: Path) -> None:
    told = set(lines(trace(run, PROMPT.id)))
    assert f"prompt/revised in 01-revise: I will not. ({REVISION.id})" in told
    assert "prompt/tuned in 05-evaluate: No." in told


def test_a_rejected_input_says_why(run: Path) -> None:
    assert "row/left out of 01-revise: too long: 999 tokens" in set(lines(trace(run, REJECTED.id)))


def test_an_id_must_name_one_thing(run: Path) -> None:
    with pytest.raises(InputError, match="no record has this id"):
        trace(run, "0000000000")
    with pytest.raises(InputError, match="at least 4 characters"):
        trace(run, "abc")
    twin = run / "stages" / "03-sft-aaaaaaaaaaaa" / "records.jsonl"
    twin.write_text('{"id":"5f70000000000000"}\n{"id":"5f70111111111111"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="2 ids begin like this"):
        trace(run, "5f70")


def test_a_judges_thoughts_stand_under_the_order_that_they_are_about(run: Path) -> None:
    told = set(lines(trace(run, REASONED.id)))
    assert "preference/judged/no-harm/thought, shown first: A is kind." in told
    assert "preference/judged/no-harm/thought, shown second: B is kind." in told
    assert "preference/pair: brought along from a file, where it was 0123456789abcdef" in told


def test_a_pair_that_the_judge_was_measured_on_is_no_training_row(run: Path) -> None:
    orders = "(shown first 0.900, shown second 0.600), preferred"
    assert list(lines(trace(run, "aced000000000000"))) == [
        "row: aced000000000000",
        f"row/the judge was measured on it in 06-judge: p 0.750 for the answer known to be better {orders}",
    ]
