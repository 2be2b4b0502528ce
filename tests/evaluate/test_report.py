"""The report of a made-up run: what both files hold, that nothing in them becomes markup, and the terminal's table."""

import json
import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cai.evaluate.contents import Answer, Example, ReportData, RevisionExample, StageRow
from cai.evaluate.page import render
from cai.evaluate.report import report_json, result_table, table_models, write_report

HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; </style></svg><img src=//evil.example/x>"


@dataclass
class Page:
    """The page as a browser would take it apart."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    words: str = ""
    open: list[str] = field(default_factory=list)


def taken_apart(text: str) -> Page:
    page, parser = Page(), HTMLParser()

    def start(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        alone(tag, attributes)
        if tag != "meta":
            page.open.append(tag)

    def alone(tag: str, attributes: list[tuple[str, str | None]]) -> None:
        page.tags.append(tag)
        page.attributes += attributes

    def end(tag: str) -> None:
        assert page.open.pop() == tag, f"</{tag}> closes something else"

    def say(words: str) -> None:
        if "style" not in page.open:
            page.words += words

    parser.handle_starttag, parser.handle_startendtag = start, alone
    parser.handle_endtag, parser.handle_data = end, say
    parser.feed(text)
    parser.close()
    return page


def words_of(data: ReportData) -> str:
    return re.sub(r"\s+", " ", taken_apart(render(data)).words)


def hostile(data: ReportData) -> ReportData:
    """The same run with markup in every field that a model, a user or a file can write."""
    answers = {name: Answer(HOSTILE + name, {"served": True}, HOSTILE, good=False) for name in ("base", "sft", "tuned")}
    principle = replace(data.constitution.principles[0], id=HOSTILE, text=HOSTILE)
    about = replace(data.constitution, id=HOSTILE, version=HOSTILE, digest=HOSTILE, title=HOSTILE)
    assert data.judge
    return replace(
        data,
        run=HOSTILE,
        command=HOSTILE,
        model={"base": HOSTILE, HOSTILE: HOSTILE, "list": [HOSTILE], "map": {HOSTILE: HOSTILE}},
        digests={HOSTILE: HOSTILE},
        constitution=replace(about, principles=(principle,)),
        stages=(
            StageRow(1, HOSTILE, HOSTILE, 2, 1, {HOSTILE: 1}, {HOSTILE: 1}),
            StageRow(2, HOSTILE, HOSTILE, 9, 1),
        ),
        curves=tuple(replace(curve, kind=HOSTILE) for curve in data.curves),
        examples=(Example(HOSTILE, HOSTILE, answers),),
        revisions=(RevisionExample(HOSTILE, HOSTILE, HOSTILE, HOSTILE, f"{HOSTILE} changed"),),
        judge=replace(data.judge, families={HOSTILE: 0.5}),
        metrics=tuple(
            replace(row, values={**row.values, HOSTILE: 0.5}, intervals={**row.intervals, HOSTILE: (0.4, 0.6)})
            for row in data.metrics
        ),
    )


def test_text_of_models_and_users_never_becomes_markup(made_up_run: ReportData) -> None:
    page, plain = taken_apart(render(hostile(made_up_run))), taken_apart(render(made_up_run))
    assert set(page.tags) <= set(plain.tags)
    assert {name for name, _ in page.attributes} <= {name for name, _ in plain.attributes}
    assert "<script>alert(1)</script>" in page.words


def test_the_hostile_run_really_fills_every_text(made_up_run: ReportData) -> None:
    """Otherwise a new field could slip past the test above."""
    ours = {"suite", "metric", "better"}

    def texts(value: object, name: str = "") -> list[tuple[str, str]]:
        if isinstance(value, str):
            return [(name, value)]
        if is_dataclass(value):
            return [text for f in fields(value) for text in texts(getattr(value, f.name), f.name)]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
        return [text for part in parts for text in texts(part, name)]

    assert {name for name, text in texts(hostile(made_up_run)) if HOSTILE not in text} == ours


def test_the_page_needs_no_network_and_no_script(made_up_run: ReportData) -> None:
    text = render(made_up_run)
    page = taken_apart(text)
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"url\(|@import", text)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_the_page_says_what_the_run_showed(made_up_run: ReportData) -> None:
    words = words_of(made_up_run).replace("\u202f", " ")
    for part in (
        "Harmful compliance fell from 97 % to 1 % and honesty rose from 5 % to 96 %",
        "Harmless, helpful and honest in a small world (tiny-world 1.0.0, 4 principles)",
        "800 requests",
        "Fine-tuned gave the same answer as Aligned.",
        "The base model judged 400 pairs",
        "identical answers 266",
        "730 of 996 changed.",
        "cai run pipelines/quickstart.yaml",
        made_up_run.constitution.digest,
        *(revision.critique for revision in made_up_run.revisions),
        *(principle.id for principle in made_up_run.constitution.principles),
    ):
        assert part in words, part
    assert "do not add up" not in words


def test_words_that_changed_are_marked(made_up_run: ReportData) -> None:
    text = render(made_up_run)
    assert "<del>One could fill a whole book with words about this.</del>" in text
    assert "<ins>Sorry, I must not help to</ins>" in text


def test_facts_read_well_and_what_is_not_set_is_left_out(made_up_run: ReportData) -> None:
    model = {
        "base": "tiny",
        "revision": None,
        "dense_copy": False,
        "lora": {"rank": 4, "targets": []},
        "stops": ["a", 1],
    }
    facts = dict(
        re.findall(r'<dt>([^<]*)</dt><dd class="mono">([^<]*)</dd>', render(replace(made_up_run, model=model)))
    )
    told = {name: text for name, text in facts.items() if name not in made_up_run.digests}
    assert told == {"base": "tiny", "dense copy": "no", "lora": "rank 4", "stops": "a, 1"}


def test_an_answer_without_words_is_told(made_up_run: ReportData) -> None:
    empty = Answer("", {}, "does not help", good=False)
    example = Example("Say something.", "benign", {"base": empty, "tuned": replace(empty, text="Something.")})
    assert "no words at all" in words_of(replace(made_up_run, examples=(example,)))


def test_a_ledger_that_does_not_add_up_says_so(made_up_run: ReportData) -> None:
    wrong = StageRow(1, "revise", "ab", inputs=10, outputs=8, rejects={"cut off": 1})
    assert "The counts do not add up." in words_of(replace(made_up_run, stages=(wrong,)))


def test_equal_data_gives_equal_bytes(made_up_run: ReportData, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(tmp_path / name, made_up_run)
    for file in ("report.json", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_report_json_has_the_promised_shape(made_up_run: ReportData, tmp_path: Path) -> None:
    write_report(tmp_path, made_up_run)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report)[:6] == ["schema", "run", "constitution", "model", "stages", "metrics"]
    assert report["schema"] == 1
    assert {"id", "version", "digest"} <= set(report["constitution"])
    rows = {row["metric"]: row for row in report["metrics"]}
    harm = rows["harmful_compliance"]
    assert list(harm)[:9] == ["suite", "metric", "better", "values", "base", "tuned", "difference", "interval", "n"]
    assert harm["values"] == {"base": 0.97, "sft": 0.285, "tuned": 0.01}
    assert (harm["base"], harm["tuned"], harm["difference"], harm["n"]) == (0.97, 0.01, -0.96, 200)
    assert rows["judge_accuracy"]["values"] == {"base": 0.9375}
    assert rows["judge_accuracy"]["interval"] is None
    for row in rows.values():
        assert all(0 <= share <= 1 for share in row["values"].values())


def test_report_json_is_what_the_file_holds(made_up_run: ReportData, tmp_path: Path) -> None:
    page = write_report(tmp_path, made_up_run)
    assert page == tmp_path / "report.html"
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report_json(made_up_run)))


def test_the_terminals_table_has_a_row_for_each_compared_metric(made_up_run: ReportData) -> None:
    table = result_table(made_up_run)
    assert table_models(made_up_run) == ["base", "sft", "tuned"]
    assert [row.metric for row in table][:2] == ["Harmful compliance", "Honesty"]
    assert "Judge accuracy" not in [row.metric for row in table]
    first = table[0]
    assert [value.replace("\u202f", " ") for value in first.values] == ["97.0 %", "28.5 %", "1.0 %"]
    assert (first.difference, first.better, first.change) == ("−96.0 (−98.0 to −94.0)", "lower", "better")


@pytest.mark.parametrize("kept", [(), ("harmful_compliance",)])
def test_a_run_with_hardly_anything_still_has_a_report(
    made_up_run: ReportData, kept: tuple[str, ...], tmp_path: Path
) -> None:
    rows = tuple(
        replace(row, values={"base": row.values["base"]}, tuned=None, difference=None, interval=None)
        for row in made_up_run.metrics
        if row.metric in kept
    )
    bare = ReportData("bare", replace(made_up_run.constitution, principles=()), {"base": "tiny"}, rows)
    write_report(tmp_path, bare)
    assert "Nothing was compared" in words_of(bare)
    assert len(result_table(bare)) == len(kept)
