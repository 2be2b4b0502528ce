"""Rows in other tools' layouts: nothing is changed on the way out and back, and a wrong row is named."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.errors import InputError
from cai.manifest import verify_manifest
from cai.records import Lineage, Message, Preference, Prompt, Reject, Verdict, new_prompt, to_line
from cai.store.dataset import DataSet, open_data
from cai.store.formats.exporting import TARGETS, ExportSettings, export
from cai.store.formats.importing import import_file, read_rows
from cai.store.formats.layouts import detect
from cai.store.formats.rows import Answered
from cai.store.formats.source import source_rows

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40).filter(lambda text: text.strip())
SHARE = st.floats(0, 1)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}


@st.composite
def prompts(draw: st.DrawFn, tools: bool = True) -> Prompt:
    messages = [Message("system", draw(TEXT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        messages += [Message("user", draw(TEXT)), Message("assistant", draw(TEXT))]
    messages.append(Message("user", draw(TEXT)))
    if tools and draw(st.booleans()):
        messages += [Message("assistant", "", (CALL,)), Message("tool", "blue", (), "c1")]
        return new_prompt(tuple(messages), "a source", tools=(TOOL,))
    return new_prompt(tuple(messages), "a source")


@st.composite
def pairs(draw: st.DrawFn, tools: bool = True) -> Preference:
    chosen, rejected = draw(st.tuples(TEXT, TEXT).filter(lambda both: both[0] != both[1]))
    thoughts = draw(st.sampled_from(((), ("the first is\nkinder", "the second, \u201ckinder\u201d"))))
    verdicts = tuple(Verdict(f"p{i}", draw(SHARE), draw(SHARE), thoughts) for i in range(draw(st.integers(0, 2))))
    lineage = Lineage("c" * 64, "f" * 64, draw(st.integers(0, 2**62)), "answerer", "", "judge", "schema")
    kind = draw(st.sampled_from(("preferred", "tie", "contradiction")))
    return Preference(draw(prompts(tools)), chosen, rejected, draw(SHARE), verdicts, kind, lineage, "samples:0,1")


def data_of(rows: list, folder: Path, sort: str = "preferences") -> DataSet:
    return DataSet(folder, "test", sort, lambda: iter(rows))


def there_and_back(rows: list, folder: Path, how: ExportSettings, sort: str = "preferences") -> tuple[list, list]:
    done = export(data_of(rows, folder, sort), folder, how)
    back = [row for split in done.splits for row in read_rows(folder / split.file)]
    left_out = [Reject(**json.loads(line)) for line in _lines(folder / "rejects.jsonl")]
    assert done.inputs == len(rows) == done.outputs + len(left_out)
    return back, left_out


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1] if path.exists() else []


ALL = ("preferred", "tie", "contradiction")
MANY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.parametrize("form", ["explicit", "implicit"])
@pytest.mark.parametrize("target", ["trl", "parquet"])
@given(rows=st.lists(pairs(), min_size=1, max_size=4, unique_by=lambda row: row.id))
@MANY
def test_trl_rows_come_back_as_they_were(
    rows: list[Preference], target: str, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("out") / "x"
    back, left_out = there_and_back(rows, folder, ExportSettings(target, form, kinds=ALL))
    assert back == rows
    assert left_out == []


@given(rows=st.lists(pairs(), min_size=1, max_size=4, unique_by=lambda row: row.id))
@MANY
def test_llama_factory_rows_keep_their_words_and_their_lineage(
    rows: list[Preference], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A function call has no id in sharegpt; all else comes back, and the prompt keeps its id by its column."""
    folder = tmp_path_factory.mktemp("out") / "x"
    back, left_out = there_and_back(rows, folder, ExportSettings("llama-factory", kinds=ALL))
    assert left_out == []
    for before, after in zip(rows, back, strict=True):
        assert (after.id, after.p_chosen, after.verdicts, after.lineage) == (
            before.id,
            before.p_chosen,
            before.verdicts,
            before.lineage,
        )
        assert [m.content for m in after.prompt.messages] == [m.content for m in before.prompt.messages]
        assert after.prompt.tools == before.prompt.tools


@pytest.mark.parametrize(
    "how", [ExportSettings("hh", kinds=ALL), ExportSettings("llama-factory", "explicit", "alpaca", ALL)]
)
@given(rows=st.lists(pairs(tools=False), min_size=1, max_size=4, unique_by=lambda row: row.id))
@MANY
def test_narrow_layouts_give_each_row_back_or_name_it(
    rows: list[Preference], how: ExportSettings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    back, left_out = there_and_back(rows, tmp_path_factory.mktemp("out") / "x", how)
    kept = {row.id for row in rows} - {reject.id for reject in left_out}
    assert back == [row for row in rows if row.id in kept]


@given(rows=st.lists(pairs(), min_size=1, max_size=4))
@MANY
def test_openai_rows_keep_prompt_and_answers(rows: list[Preference], tmp_path_factory: pytest.TempPathFactory) -> None:
    back, left_out = there_and_back(rows, tmp_path_factory.mktemp("out") / "x", ExportSettings("openai", kinds=ALL))
    assert left_out == []
    assert [(r.prompt.messages, r.prompt.tools, r.chosen, r.rejected) for r in back] == [
        (r.prompt.messages, r.prompt.tools, r.chosen, r.rejected) for r in rows
    ]


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "hh"])
def test_answers_and_labelled_answers_come_back(target: str, tmp_path: Path) -> None:
    plain = [Answered(new_prompt(f"Question {i}?"), f"Answer {i}.") for i in range(3)]
    back, _ = there_and_back(plain, tmp_path / "plain", ExportSettings(target), "answers")
    assert [(r.prompt.messages, r.completion, r.label) for r in back] == [
        (r.prompt.messages, r.completion, None) for r in plain
    ]
    labelled = [Answered(row.prompt, row.completion, i > 0) for i, row in enumerate(plain)]
    back, left_out = there_and_back(labelled, tmp_path / "labelled", ExportSettings(target), "unpaired")
    if target == "openai":
        assert [reject.reason for reject in left_out] == ["unwanted answer"]
    else:
        assert [(r.completion, r.label) for r in back] == [(r.completion, r.label) for r in labelled]


def pair(number: int = 0, kind: str = "preferred") -> Preference:
    lineage = Lineage("c" * 64, "f" * 64, 1, "answerer", "", "judge")
    question = new_prompt(f"Why is the sky blue, child {number}?", "test")
    return Preference(question, "Because of the air.", "No idea.", 0.9, (Verdict("kind", 0.9, 0.9),), kind, lineage)


def test_ties_are_left_out_by_name_unless_asked_for(tmp_path: Path) -> None:
    rows = [pair(0), pair(1, "tie"), pair(2, "contradiction")]
    back, left_out = there_and_back(rows, tmp_path / "a", ExportSettings("trl"))
    assert [row.kind for row in back] == ["preferred"]
    assert [reject.reason for reject in left_out] == ["tie", "contradiction"]


def test_a_prompt_is_in_one_split_only(tmp_path: Path) -> None:
    rows = [pair(i // 2) for i in range(200)]
    rows = [
        Preference(r.prompt, f"{r.chosen} {i}", *(r.rejected, r.p_chosen, r.verdicts, r.kind, r.lineage))
        for i, r in enumerate(rows)
    ]
    done = export(data_of(rows, tmp_path), tmp_path / "out", ExportSettings("trl", test_share=0.3))
    prompts_of = [{row.prompt.id for row in read_rows(tmp_path / "out" / split.file)} for split in done.splits]
    assert [split.name for split in done.splits] == ["train_prefs", "test_prefs"]
    assert prompts_of[0] & prompts_of[1] == set()
    assert 15 <= len(prompts_of[1]) <= 45


@pytest.mark.parametrize("target", ["trl", "parquet", "llama-factory"])
def test_datasets_loads_what_is_exported(target: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the development dependency datasets is not installed")
    rows = [pair(i) for i in range(20)]
    out = tmp_path / "out"
    done = export(data_of(rows, tmp_path), out, ExportSettings(target, test_share=0.3))
    from cai.store.data_card import data_card
    from cai.store.data_stats import stats_of

    (out / "README.md").write_text(data_card(data_of(rows, tmp_path), stats_of(rows), done), "utf-8")
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {s.name: s.rows for s in done.splits}
    first = loaded["train_prefs"][0]
    assert first["judge_prob"] == 0.9
    if target != "llama-factory":
        assert first["chosen"] == [{"role": "assistant", "content": "Because of the air."}]


def test_llama_factory_is_told_where_everything_stands(tmp_path: Path) -> None:
    """The documented contract: each entry's columns are there, turns alternate and end with a question."""
    out = tmp_path / "out"
    export(data_of([pair(i) for i in range(3)], tmp_path), out, ExportSettings("llama-factory"))
    info = json.loads((out / "dataset_info.json").read_text("utf-8"))
    entry = info["train_prefs"]
    assert entry["formatting"] == "sharegpt"
    assert entry["ranking"] is True
    for line in _lines(out / entry["file_name"]):
        row = json.loads(line)
        assert {row[entry["columns"][name]]["from"] for name in ("chosen", "rejected")} == {"gpt"}
        turns = [turn["from"] for turn in row[entry["columns"]["messages"]]]
        assert turns[::2] == ["human"] * len(turns[::2])
        assert turns[1::2] == ["gpt"] * len(turns[1::2])


GOOD = {"prompt": "Hi?", "chosen": "Hello!", "rejected": "What."}
WRONG = [
    (b"{", "not a row", "is not JSON"),
    (b"[1]", "not a row", "is not a JSON object but list"),
    (b'{"prompt": "\xff"}', "not a row", "is not UTF-8 at byte 13"),
    (b"[" * 100_000, "not a row", "nested too deeply"),
    (b'{"prompt": "Hi?", "chosen": "Hello!"}', "wrong field", "chosen: is missing"),
    (b'{"prompt": 1, "chosen": "a", "rejected": "b"}', "wrong field", "prompt: must be text, got 1"),
    (b'{"prompt": "Hi?", "chosen": " ", "rejected": "b"}', "empty answer", "chosen: is empty"),
    (b'{"prompt": "Hi?", "chosen": "b", "rejected": "b"}', "identical answers", "rejected: is the same as chosen"),
    (b'{"prompt": "Hi?", "chosen": "\\ud800", "rejected": "b"}', "broken text", "chosen: holds half a character"),
    (b'{"prompt": "Hi?", "chosen": "a", "rejected": "b", "judge_prob": 7}', "wrong field", "judge_prob: must be"),
    (b'{"prompt": "Hi?", "chosen": "a", "rejected": "b", "judge_prob": NaN}', "not a row", "NaN is not JSON"),
    (
        b'{"prompt": [{"role": "king", "content": "x"}], "chosen": "a", "rejected": "b"}',
        "wrong field",
        "prompt[0].role",
    ),
    (
        b'{"prompt": [{"role": "assistant", "content": "x"}], "chosen": "a", "rejected": "b"}',
        "no user message",
        "prompt",
    ),
]


def test_a_wrong_row_is_named_by_file_line_and_field_and_the_import_goes_on(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good, *(line for line, _, _ in WRONG), good]) + b"\n")
    done = import_file(path, tmp_path / "in", "trl")
    assert (done.inputs, done.outputs) == (len(WRONG) + 2, 2)
    rejects = [Reject(**json.loads(line)) for line in _lines(tmp_path / "in" / "rejects.jsonl")]
    for number, (reject, (_, reason, says)) in enumerate(zip(rejects, WRONG, strict=True), 2):
        assert reject.reason == reason, reject
        assert reject.detail.startswith(f"rows.jsonl:{number}: "), reject
        assert says in reject.detail
    counts = verify_manifest(tmp_path / "in").counts
    assert counts == {"inputs": len(WRONG) + 2, "outputs": 2, "rejects": len(WRONG)}


@given(lines=st.lists(st.one_of(st.binary(max_size=60), st.just(json.dumps(GOOD).encode())), max_size=8))
@MANY
def test_whatever_the_lines_hold_the_ledger_closes(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "any.jsonl"
    path.write_bytes(b"x\n" + b"\n".join(line.replace(b"\n", b" ") for line in lines))
    done = import_file(path, folder / "in", "trl")
    assert done.inputs == done.outputs + sum(done.rejects.values())


def test_arrays_are_read_one_row_at_a_time_and_by_line(tmp_path: Path) -> None:
    rows = [{**GOOD, "prompt": f"Hi {i}? " + "x" * 3000} for i in range(900)]
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
    found = list(source_rows(path))
    assert [row.value for row in found] == rows
    assert [row.number for row in found[:3]] == [2, 7, 12]


def test_an_array_that_breaks_off_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[\n" + json.dumps(GOOD) + ",\n" + json.dumps(GOOD)[:-4], "utf-8")
    with pytest.raises(InputError, match=r"rows.json:3: the array breaks off"):
        list(source_rows(path))
    path.write_text("[\n" + json.dumps(GOOD) + "\n;", "utf-8")
    with pytest.raises(InputError, match=r"rows.json:3: the array cannot be read on"):
        list(source_rows(path))


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        (GOOD, "trl"),
        ({"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello!"}]}, "trl"),
        ({"chosen": "\n\nHuman: Hi?\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."}, "hh"),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "openai"),
        ({"instruction": "Say hi.", "input": "", "output": "Hi."}, "llama-factory"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "llama-factory"),
        (json.loads(to_line(pair())), "jsonl"),
    ],
)
def test_the_layout_is_told_from_the_rows(row: dict[str, object], layout: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    assert detect(path).name == layout


def test_an_imported_folder_is_read_like_a_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(to_line(pair(i)) + "\n" for i in range(3)), "utf-8")
    import_file(path, tmp_path / "in")
    assert list(open_data(tmp_path / "in").rows()) == [pair(i) for i in range(3)]
    with pytest.raises(InputError, match="holds data already"):
        import_file(path, tmp_path / "in")
