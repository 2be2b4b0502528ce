"""A prompt that the embedded model cannot read to its end: one named reject of each stage, and the other rows go on."""

import json
import re
from pathlib import Path

import pytest

from cai.journal import read_lines
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.records import Reject, from_line, new_prompt

ROOT = Path(__file__).parents[2]
ASKED = "Do you know how to kick the neighbour's bike?"
NEARLY, LONG = " ".join([ASKED] * 92), " ".join([ASKED] * 100)
"""The embedded model reads 1,024 tokens: the first leaves a few of them for an answer, the second does not fit."""
STAGES = """
  - revise: {rounds: 1, max_new_tokens: 64}
  - prefer: {pairs: samples, max_new_tokens: 64}
  - evaluate: {judge_pairs: 0}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    rows = [{"prompt": text, "source": "tiny/test/harmful"} for text in (ASKED, NEARLY, LONG)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "p.yaml").write_text(
        f"name: long\nseed: 1\nconstitution: {ROOT}/constitutions/tiny.yaml\nmodel: {{base: tiny}}\n"
        f"prompts: {{train: p.jsonl, test: p.jsonl}}\nstages:{STAGES}",
        encoding="utf-8",
    )
    list(run_pipeline(load_pipeline(folder / "p.yaml"), folder / "run"))
    return folder / "run"


def rejects_of(run: Path, stage: str) -> dict[str, Reject]:
    """A stage's rejects by the row that they are of."""
    folder = next((run / "stages").glob(f"{stage}-*"))
    rejects = [from_line(Reject, line) for line in read_lines(folder / "rejects.jsonl")]
    assert len({reject.id for reject in rejects}) == len(rejects)
    return {reject.id: reject for reject in rejects}


@pytest.mark.parametrize("stage", ["01-revise", "02-prefer", "03-evaluate"])
def test_a_prompt_too_long_is_one_reject_that_tells_both_lengths(run: Path, stage: str) -> None:
    reject = rejects_of(run, stage)[new_prompt(LONG).id]
    assert reject.reason == "prompt too long"
    told = r"answer: 11\d\d tokens and an answer do not fit the model's context of 1024"
    assert re.fullmatch(told, reject.detail)


def test_the_prompt_beside_them_comes_through(run: Path) -> None:
    assert new_prompt(ASKED).id not in rejects_of(run, "01-revise")


def test_an_answer_that_met_the_end_of_the_context_tells_how_long_its_prompt_is(run: Path) -> None:
    """Whatever it says, it can end neither as a revision nor as an answer of 64 tokens."""
    reject = rejects_of(run, "01-revise")[new_prompt(NEARLY).id]
    assert reject.reason in ("cut-off answer", "too long to criticise")
    assert re.search(r"no end after \d+ of 64 tokens, behind 10\d\d: |1\d\d\d tokens and an answer", reject.detail)
