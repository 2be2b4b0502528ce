"""Labelled pairs: LLMBar, the HHH evaluations, and what any layout may say beside its pairs."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.records import Preference, Reject, new_prompt, to_line
from cai.store.formats.importing import import_file, read_rows
from cai.store.formats.labels import LabelledPair, labelled_rows
from cai.store.formats.layouts import detect
from cai.store.formats.prompts import read_prompts
from cai.store.formats.rows import UNKNOWN

ASKED = new_prompt("Name a colour.")
DIALOGUE = "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: Name a colour.\n\nAssistant:"
HHH_ROWS = {
    "transcripts": {"text_correct": f"{DIALOGUE} Red.", "text_incorrect": f"{DIALOGUE} Seven."},
    "choices": {"input": DIALOGUE, "targets": {"choices": ["Seven.", "Red."], "labels": [0, 1]}},
    "scores": {"input": DIALOGUE, "target_scores": {"Red.": 1, "Seven.": 0}},
}


def written(folder: Path, *rows: object, name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def pairs_of(path: Path) -> list[LabelledPair]:
    found = list(labelled_rows(path))
    assert all(isinstance(row, LabelledPair) for row in found), found
    return [row for row in found if isinstance(row, LabelledPair)]


def why(path: Path) -> list[tuple[str, str]]:
    return [(row.reason, row.detail) for row in labelled_rows(path) if isinstance(row, Reject)]


def bar(label: object, **more: object) -> dict[str, object]:
    return {"input": "Name a colour.", "output_1": "Red.", "output_2": "Seven.", "label": label, **more}


@pytest.mark.parametrize(
    ("label", "better"), [(1, "Red."), (2, "Seven."), ("1", "Red."), ("2", "Seven."), (2.0, "Seven.")]
)
def test_llmbars_label_says_which_output_is_better(tmp_path: Path, label: object, better: str) -> None:
    path = written(tmp_path, bar(label))
    assert detect(path).name == "llmbar"
    [row] = pairs_of(path)
    assert (row.pair.chosen, row.pair.prompt.messages) == (better, ASKED.messages)
    assert {row.pair.chosen, row.pair.rejected} == {"Red.", "Seven."}
    assert (row.pair.p_chosen, row.pair.kind, row.pair.lineage) == (1.0, "preferred", UNKNOWN)


def test_a_table_of_llmbar_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "bar.csv").write_text("input,output_1,output_2,label\nName a colour.,Red.,Seven.,2\n", "utf-8")
    [row] = pairs_of(tmp_path / "bar.csv")
    assert row.pair.chosen == "Seven."


@pytest.mark.parametrize("label", [0, 3, True, None, "one", 1.5, [1]])
def test_an_llmbar_row_without_a_label_is_named(tmp_path: Path, label: object) -> None:
    path = written(tmp_path, bar(1), bar(label))
    assert [(reason, detail[:36]) for reason, detail in why(path)] == [
        ("wrong field", "pairs.jsonl:2: label: must be 1 or 2")
    ]


@pytest.mark.parametrize("shape", HHH_ROWS)
def test_the_hhh_evaluations_are_read_in_every_shape(tmp_path: Path, shape: str) -> None:
    path = written(tmp_path, HHH_ROWS[shape])
    assert detect(path).name == "hhh"
    [row] = pairs_of(path)
    assert [m.role for m in row.pair.prompt.messages] == ["user", "assistant", "user"]
    assert row.pair.prompt.messages[-1].content == "Name a colour."
    assert (row.pair.chosen, row.pair.rejected) == ("Red.", "Seven.")
    [prompt] = read_prompts(path)
    assert prompt.messages == row.pair.prompt.messages


def test_one_text_that_is_no_transcript_is_the_users(tmp_path: Path) -> None:
    [row] = pairs_of(written(tmp_path, {"input": "Name a colour.", "target_scores": {"Red.": 1, "Seven.": 0}}))
    assert row.pair.prompt.messages == ASKED.messages


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (
            {"input": "q", "targets": {"choices": ["a"], "labels": [1, 0]}},
            "targets: must hold as many choices as labels",
        ),
        ({"input": "q", "targets": ["a", "b"]}, "targets: must hold as many choices as labels"),
        ({"input": "q", "target_scores": {"a": 1, "b": 0, "c": 0}}, "targets: must be one right and one wrong answer"),
        ({"input": "q", "target_scores": {"a": 1, "b": 1}}, "targets: must be one right and one wrong answer"),
        ({"input": 7, "target_scores": {"a": 1, "b": 0}}, "input: must be text"),
        ({"text_correct": f"{DIALOGUE} a", "text_incorrect": 3}, "rejected: must be text"),
    ],
)
def test_an_hhh_row_that_is_no_pair_is_named(tmp_path: Path, row: dict[str, object], told: str) -> None:
    path = written(tmp_path, HHH_ROWS["scores"], HHH_ROWS["scores"], row)
    [(_, detail)] = why(path)
    assert detail.startswith(f"pairs.jsonl:3: {told}")


def test_what_stands_beside_a_pair_is_kept(tmp_path: Path) -> None:
    plain = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
    told = {
        "category": "easy",
        "chosen_model": "small",
        "rejected_model": "large",
        "people": ["chosen", "rejected", "chosen", "nobody", 3],
    }
    rows = pairs_of(written(tmp_path, {**plain, **told}, plain, {**plain, "subset": "hard", "category": "easy"}))
    assert (rows[0].subset, rows[0].better_by, rows[0].worse_by) == ("easy", "small", "large")
    assert rows[0].people == (True, False, True)
    assert (rows[1].subset, rows[1].better_by, rows[1].people) == ("", "", ())
    assert rows[2].subset == "hard"


@pytest.mark.parametrize("value", [7, None, ["easy"], {"a": 1}])
def test_columns_of_another_shape_say_nothing(tmp_path: Path, value: object) -> None:
    plain = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}
    [row] = pairs_of(written(tmp_path, {**plain, "subset": value, "people": "chosen", "chosen_model": value}))
    assert (row.subset, row.people, row.better_by) == ("", (), "")


def test_rows_that_label_nothing_are_rejects_with_their_place(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "kind": "tie"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "chosen": "a", "rejected": "a"},
    ]
    path = written(tmp_path, *rows)
    path.write_text(path.read_text("utf-8") + "not json\n", "utf-8")
    assert why(path) == [
        ("labelled a tie", "pairs.jsonl:2: neither is better"),
        ("not a pair", "pairs.jsonl:3: holds one answer, not two"),
        ("identical answers", "pairs.jsonl:4: rejected: is the same as chosen, got a"),
        ("not a row", "pairs.jsonl:5: is not JSON (Expecting value: line 1 column 1 (char 0))"),
    ]


def test_records_of_a_run_are_labelled_pairs(tmp_path: Path) -> None:
    record = Preference(ASKED, "Red.", "Seven.", 0.8, (), "preferred", UNKNOWN, "samples:0,1")
    path = tmp_path / "records.jsonl"
    path.write_text(to_line(record) + "\n", "utf-8")
    assert pairs_of(path) == [LabelledPair(record)]


@pytest.mark.parametrize("rows", [list(HHH_ROWS.values())[:1] * 2, [bar(1), bar(2)]], ids=["hhh", "llmbar"])
def test_test_sets_of_judges_are_imported_like_any_layout(tmp_path: Path, rows: list[object]) -> None:
    path = written(tmp_path, *rows)
    done = import_file(path, tmp_path / "in")
    assert (done.inputs, done.outputs, done.sorts) == (2, 2, {"preferences": 2})
    assert list(read_rows(tmp_path / "in" / "records.jsonl")) == [row.pair for row in pairs_of(path)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"prompt": st.just("q"), "chosen": st.sampled_from(["a", "b", "", 3]), "rejected": st.sampled_from("abc")},
            optional={"subset": st.sampled_from(["x", 1]), "people": st.just(["chosen"]), "kind": st.just("tie")},
        ),
        min_size=1,
        max_size=6,
    )
)
def test_every_row_is_a_pair_or_a_reject(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    found = list(labelled_rows(written(tmp_path, *rows)))
    assert len(found) == len(rows)
    for row, made in zip(rows, found, strict=True):
        sound = row["chosen"] in ("a", "b") and row["chosen"] != row["rejected"] and "kind" not in row
        assert isinstance(made, LabelledPair) == sound
