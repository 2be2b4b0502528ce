"""Random pipelines whose calls fail, stopped and killed at random moments: a thin slice of `bench/ledger.py`."""

from collections import Counter
from pathlib import Path

import pytest

from bench.ledger import Seen, check_ledgers, drawn_trial, folders_of, outcome, served_for, tried, written
from cai.errors import CaiError
from cai.manifest import read_manifest, write_manifest
from cai.pipeline.spec import load_pipeline
from tests.models.remote.fake_server import running

# Between them: every kind of stage, calls that fail for good and for a while, and a filter that leaves nothing.
SEEDS = (2, 9, 17, 40)


def test_ledgers_close_and_stopped_runs_end_as_if_they_never_were(tmp_path: Path) -> None:
    seen = Seen(Counter(), Counter())
    for seed in SEEDS:
        (tmp_path / str(seed)).mkdir()
        tried(drawn_trial(seed), tmp_path / str(seed), 0, seen)
    assert seen.stages.keys() == {"revise", "prefer", "filter"}
    assert len(seen.rejects) >= 8, seen.rejects
    assert seen.stops >= 2 * len(SEEDS)
    assert seen.refusals == 2


def test_a_killed_run_ends_as_if_it_never_was(tmp_path: Path) -> None:
    seen = Seen(Counter(), Counter())
    tried(drawn_trial(16), tmp_path, 1, seen)
    assert seen.kills == 1


@pytest.mark.parametrize("harm", ["a lost record", "a doubled reject", "a reject of nothing"])
def test_the_check_finds_what_was_lost_or_doubled(harm: str, tmp_path: Path) -> None:
    """The rows are taken out behind the manifest's back and it is written anew, as a wrong program would."""
    trial = drawn_trial(22)
    with running(served_for(trial)) as server:
        pipeline = load_pipeline(written(trial, server, tmp_path))
        assert outcome(pipeline, tmp_path / "run") == ""
    check_ledgers(pipeline, tmp_path / "run", Seen(Counter(), Counter()))
    folder = folders_of(tmp_path / "run", pipeline.stages)[1]
    records, rejects = folder / "records.jsonl", folder / "rejects.jsonl"
    lines, left = records.read_text("utf-8").splitlines(), rejects.read_text("utf-8").splitlines()
    assert lines
    assert left
    if harm == "a lost record":
        records.write_text("".join(f"{line}\n" for line in lines[1:]), "utf-8")
    elif harm == "a doubled reject":
        rejects.write_text("".join(f"{line}\n" for line in [*left, left[0]]), "utf-8")
    else:
        rejects.write_text("".join(f"{line}\n" for line in left).replace(left[0][7:23], "0" * 16), "utf-8")
    m = read_manifest(folder)
    assert m
    reasons = Counter(line.split('"reason":"')[1].split('"')[0] for line in rejects.read_text("utf-8").splitlines())
    counts = {"outputs": len(records.read_text("utf-8").splitlines()), "rejects": reasons.total()}
    facts = {**m.facts, "rejects": reasons}
    write_manifest(folder, m.stage, m.version, m.digest, m.inputs, {"inputs": sum(counts.values()), **counts}, facts)
    with pytest.raises((AssertionError, CaiError)):
        check_ledgers(pipeline, tmp_path / "run", Seen(Counter(), Counter()))
