"""Prompt files: every layout gives its prompts without its answers, and a row that is none is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cai.errors import InputError
from cai.records import Lineage, Message, Preference, Prompt, Revision, Round, new_prompt, to_line
from cai.store.formats.exporting import ExportSettings, export
from cai.store.formats.importing import import_file
from cai.store.formats.prompts import prompt_rows, read_prompts
from tests.store.test_formats import CALL, TOOL, data_of, pairs

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "Is it raining?"}
SAID = {"role": "assistant", "content": "Yes."}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
LOOKED = {"role": "tool", "content": "drops", "tool_call_id": "c1"}
BRIEFLY = (Message("system", "Be brief."), Message("user", "Is it raining?"))
ONLY = BRIEFLY[1:]
HH = "\n\nHuman: Is it raining?\n\nAssistant:"
LINEAGE = Lineage("c" * 64, "f" * 64, 1)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(row, …, name="p.jsonl")`: a file with these rows, one a line; texts as they are."""

    def make(*rows: object, name: str = "p.jsonl") -> Path:
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Is it raining?"}, ONLY),
        ({"prompt": "Is it raining?", "system": "Be brief."}, BRIEFLY),
        ({"prompt": [SYSTEM, ASKED]}, BRIEFLY),
        ({"messages": [SYSTEM, ASKED]}, BRIEFLY),
        ({"messages": [SYSTEM, ASKED, SAID]}, BRIEFLY),
        ({"prompt": "Is it raining?", "completion": "Yes.", "label": True}, ONLY),
        ({"prompt": "Is it raining?", "chosen": "Yes.", "rejected": "Yes."}, ONLY),
        ({"prompt": [SYSTEM, ASKED], "chosen": [SAID], "rejected": [CALLED, LOOKED, SAID]}, BRIEFLY),
        ({"prompt": "raining", "chosen": [SYSTEM, ASKED, SAID], "rejected": [SYSTEM, ASKED, SAID]}, BRIEFLY),
        ({"chosen": [SYSTEM, ASKED, SAID], "rejected": [SYSTEM, ASKED, SAID]}, BRIEFLY),
        ({"chosen": f"{HH} Yes.", "rejected": f"{HH} No."}, ONLY),
        ({"input": {"messages": [ASKED]}, "preferred_output": [SAID], "non_preferred_output": []}, ONLY),
        ({"instruction": "Is it", "input": "raining?", "output": ""}, (Message("user", "Is it\nraining?"),)),
        ({"instruction": "Is it raining?", "system": "Be brief.", "output": "Yes."}, BRIEFLY),
        ({"conversations": [{"from": "human", "value": "Is it raining?"}, {"from": "gpt", "value": "Yes."}]}, ONLY),
        ({"messages": [ASKED, SAID], "kto_tag": False}, ONLY),
        (json.loads(to_line(Prompt("x", BRIEFLY))), BRIEFLY),
        (json.loads(to_line(Revision(new_prompt(BRIEFLY), "a", (Round("p", "c", "b", True),), "b", LINEAGE))), BRIEFLY),
        (json.loads(to_line(Preference(new_prompt(BRIEFLY), "a", "b", 0.7, (), "tie", LINEAGE))), BRIEFLY),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else " ".join(value),
)
def test_every_layout_gives_its_prompt(write: Write, row: dict[str, object], messages: tuple[Message, ...]) -> None:
    [prompt] = read_prompts(write(row))
    assert prompt.messages == messages
    assert prompt.id == new_prompt(messages).id


def test_a_conversation_with_tools_waits_where_its_last_answer_was(write: Write) -> None:
    whole = {"messages": [SYSTEM, ASKED, CALLED, LOOKED, SAID], "tools": json.dumps([TOOL])}
    waiting = {"messages": [SYSTEM, ASKED, CALLED, LOOKED], "tools": [TOOL]}
    calling = {"messages": [SYSTEM, ASKED, CALLED], "tools": [TOOL]}
    first, second = read_prompts(write(whole, waiting, calling))
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "tool"]
    assert first.messages[2].tool_calls == (CALL,)
    assert first.messages[3].tool_call_id == "c1"
    assert (first.tools, second.messages, second.tools) == ((TOOL,), BRIEFLY, (TOOL,))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(rows=st.lists(pairs(), min_size=1, max_size=4), target=st.sampled_from(("trl", "parquet", "openai", "jsonl")))
def test_what_is_exported_gives_the_prompts_that_went_in(
    rows: list[Preference], target: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """OpenAI's rows have no place for a source: there it is the file's name."""
    kinds = ("preferred", "tie", "contradiction")
    done = export(data_of(rows, Path("x")), tmp_path_factory.mktemp("out") / "new", ExportSettings(target, kinds=kinds))
    back = read_prompts(done.folder / done.splits[0].file)
    went_in = {row.prompt.id: row.prompt for row in rows}
    assert [(p.id, p.messages, p.tools) for p in back] == [(p.id, p.messages, p.tools) for p in went_in.values()]
    assert target == "openai" or {p.source for p in back} == {"a source"}


def test_columns_are_named_as_llama_factory_is_told(write: Write, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"mine": {"file_name": "p.jsonl", "columns": {"prompt": "question", "response": "prompt"}}})
    )
    [prompt] = read_prompts(write({"question": "Is it raining?", "prompt": "Yes."}))
    assert prompt.messages == ONLY


def test_tables_of_text_are_read_by_their_head(write: Write) -> None:
    table = write("system,prompt,answer", '"Be brief.","Is it\nraining?",Yes.', ",Why?,", name="p.csv")
    first, second = read_prompts(table)
    assert first.messages == (Message("system", "Be brief."), Message("user", "Is it\nraining?"))
    assert second.messages == (Message("user", "Why?"),)
    assert read_prompts(write("prompt\tx", "Why, oh why?\t1", name="p.tsv"))[0].messages[0].content == "Why, oh why?"


def test_tables_are_imported_too(write: Write, tmp_path: Path) -> None:
    table = write("prompt,chosen,rejected", "Why?,Because.,No.", "Why?,Because.", ',"a","b"', name="p.csv")
    done = import_file(table, tmp_path / "in")
    assert (done.outputs, done.rejects) == (1, {"not a row": 1, "wrong field": 1})
    rejects = (tmp_path / "in" / "rejects.jsonl").read_text("utf-8")
    assert "p.csv:3: has 2 cells, and the head names 3 columns" in rejects
    assert "p.csv:4: prompt: is missing" in rejects


def test_text_is_a_prompt_a_line_also_in_gzip(tmp_path: Path) -> None:
    path = tmp_path / "p.txt.gz"
    path.write_bytes(gzip.compress('\ufeff[Urgent] {"prompt"}?\r\n\n  Why?  \n[Urgent] {"prompt"}?\n'.encode()))
    found = read_prompts(path)
    assert [prompt.messages[0].content for prompt in found] == ['[Urgent] {"prompt"}?', "Why?"]
    assert {prompt.source for prompt in found} == {"p.txt.gz"}


def test_no_more_is_read_than_the_limit_needs(write: Write) -> None:
    path = write({"prompt": "Why?"}, {"prompt": "Why?"}, {"prompt": "How?"}, "broken")
    assert len(read_prompts(path, 2)) == 2


def test_a_row_knows_its_source_its_place_and_its_other_columns(write: Write) -> None:
    [row] = prompt_rows(write({"prompt": "Why?", "source": "made/benign/rain", "topic": "rain"}))
    assert (row.prompt.source, row.columns["topic"]) == ("made/benign/rain", "rain")
    assert row.place.endswith("p.jsonl:1")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "is not JSON"),
        ('["x"]', "is not a JSON object but list"),
        ({"text": "x"}, "prompt: is missing, and no other column holds a prompt, got text; a row is"),
        ({"prompt": 1}, "prompt: must be text, got 1"),
        ({"prompt": " "}, "prompt: has no user message with text"),
        ({"prompt": {"messages": []}}, "prompt: "),
        ({"messages": [SAID]}, "messages: has no user message"),
        ({"messages": [ASKED, SAID, SAID]}, "messages: ends with the assistant"),
        ({"messages": [ASKED], "tools": "{"}, "tools: must be JSON"),
        ({"chosen": [ASKED, SAID], "rejected": [SYSTEM, ASKED, SAID]}, "rejected: answers another conversation"),
        ({"chosen": f"{HH} Yes.", "rejected": "\n\nHuman: No?\n\nAssistant: No."}, "rejected: differs from chosen"),
        (
            {
                "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
                "chosen": "a",
                "rejected": "b",
            },
            "conversations: ends with the assistant",
        ),
        ({"instruction": 3, "output": "x"}, "instruction: must be text, got 3; correct it, or let `cai data import`"),
    ],
)
def test_a_row_that_is_no_prompt_is_refused_by_file_line_and_field(write: Write, row: object, told: str) -> None:
    path = write({"prompt": "fine"}, row)
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}:2: {told}")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("prompt,x", '"Why?,1'), ":2: cannot be read on (unexpected end of data)"),
        (("prompt,prompt", "a,b"), ":1: the head names a column twice, got prompt"),
        (("prompt,x", "Why?"), ":2: has 1 cells, and the head names 2 columns"),
        (("goal,x", "Why?,1"), ":2: prompt: is missing, and no other column holds a prompt, got goal, x"),
    ],
)
def test_a_broken_table_is_refused_by_line(write: Write, lines: tuple[str, ...], told: str) -> None:
    path = write(*lines, name="p.csv")
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}{told}")


def test_a_file_that_is_not_there_or_not_text_is_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "absent.txt")
    (tmp_path / "p.txt").write_bytes(b"fine\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"p.txt:2: is not UTF-8 at byte 1"):
        read_prompts(tmp_path / "p.txt")
