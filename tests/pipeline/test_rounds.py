"""`repeat`: what it writes out, what each round reads, and a run that goes round twice."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import InputError
from cai.manifest import read_manifest
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.pipeline.training_configs import DpoStageConfig

ROOT = Path(__file__).parents[2]
ROUND = "{prefer: {pairs: samples, samples: 3, judge: newest, tie_below: 0.5}}, {dpo: {pairs: new, batch_size: 4}}"
Small = Callable[..., Pipeline]
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(stages: str) -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(
            f"name: p\nconstitution: {ROOT}/constitutions/tiny.yaml\nmodel: {{base: tiny}}\n"
            f"prompts: {{train: tiny/align, test: tiny/test}}\nstages:\n{stages}\n"
        )
        return path

    return make


def test_each_round_samples_from_the_last_adapter_is_judged_by_it_and_trains_on_its_own_pairs(write: Write) -> None:
    stages = f"  - revise\n  - sft\n  - repeat: {{times: 3, stages: [{ROUND}]}}\n  - evaluate"
    found = load_pipeline(write(stages)).stages
    assert [s.kind for s in found] == ["revise", "sft", *["prefer", "dpo"] * 3, "evaluate"]
    assert [(s.sources.start, s.sources.judge) for s in found if s.kind == "prefer"] == [(2, 2), (4, 4), (6, 6)]
    trained = [s for s in found if isinstance(s.config, DpoStageConfig)]
    assert [(s.sources.start, s.sources.preferences) for s in trained] == [(2, (3,)), (4, (5,)), (6, (7,))]


def test_without_an_adapter_the_newest_is_the_base(write: Write) -> None:
    (stage, _) = load_pipeline(write("  - prefer: {pairs: samples, judge: newest}\n  - dpo")).stages
    assert (stage.sources.start, stage.sources.judge) == (None, None)


def test_all_is_all_and_new_is_only_what_came_since(write: Write) -> None:
    pair = "  - prefer: {pairs: samples}\n"
    stages = load_pipeline(write(f"{pair}  - dpo\n{pair}  - dpo: {{pairs: new}}\n{pair}  - dpo: {{pairs: all}}")).stages
    assert [s.sources.preferences for s in stages if s.kind == "dpo"] == [(1,), (3,), (1, 3, 5)]


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ("  - repeat: {times: 0, stages: [revise]}", r"p\.yaml:6:\d+: times must be a number from 1 to 20, got 0"),
        ("  - repeat: {times: two, stages: [revise]}", r"p\.yaml:6:\d+: times must be a number"),
        ("  - repeat: {times: 2}", r"p\.yaml:6:\d+: repeat needs 'times' and 'stages'"),
        ("  - repeat: {times: 2, stages: []}", r"p\.yaml:6:\d+: repeat has no stages"),
        ("  - repeat: {times: 2, stages: [{repeat: {times: 2, stages: [revise]}}]}", "cannot stand in a repeat"),
        ("  - repeat: {times: 2, stages: [revize]}", r"p\.yaml:6:\d+: there is no such stage kind, got revize"),
        ("  - revise\n  - repeat: {times: 2, stages: [revise]}\n  - sft: {rank: 3}", r"p\.yaml:8:.*unknown key 'rank'"),
        ("  - prefer: {pairs: samples}\n  - dpo\n  - dpo: {pairs: new}", r"p\.yaml:8:.*no 'prefer' stands between"),
        (
            "  - prefer: {pairs: samples}\n  - dpo\n  - prefer: {pairs: samples}\n  - filter\n  - dpo: {pairs: new}",
            r"p\.yaml:10:.*the filter before it holds pairs that an earlier stage trained on",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused_by_its_line(write: Write, stages: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        load_pipeline(write(stages))


def test_two_rounds_run_to_the_end_and_the_second_starts_where_the_first_ended(small: Small, tmp_path: Path) -> None:
    first = "{revise: {rounds: 1}}, {sft: {helpful: 1, batch_size: 4}}"
    pipeline = small(f"stages=[{first}, {{repeat: {{times: 2, stages: [{ROUND}]}}}}]")
    list(run_pipeline(pipeline, tmp_path / "run"))
    folders = sorted((tmp_path / "run" / "stages").iterdir())
    assert [folder.name[:-13] for folder in folders] == [
        "01-revise",
        "02-sft",
        "03-prefer",
        "04-dpo",
        "05-prefer",
        "06-dpo",
    ]
    manifests = [read_manifest(folder) for folder in folders]
    starts = [manifest.inputs["adapter start"] for manifest in manifests[2:] if manifest]
    assert starts[0] == starts[1] != starts[2] == starts[3]
    judges = [manifest.inputs["adapter judge"] for manifest in (manifests[2], manifests[4]) if manifest]
    assert judges == [starts[0], starts[2]]
