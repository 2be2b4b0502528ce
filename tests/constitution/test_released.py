"""A released version never changes: the record of releases, and what is said when one does."""

from dataclasses import replace
from pathlib import Path

import pytest

from cai.constitution.loading import parse_constitution
from cai.constitution.model import Constitution
from cai.constitution.released import (
    NOTHING_RELEASED,
    check_unchanged,
    entry_for,
    load_released,
    released_beside,
    what_changed,
)
from cai.errors import InputError


@pytest.fixture
def record(tmp_path: Path, sample: Constitution) -> Path:
    path = tmp_path / "released.yaml"
    path.write_text("# ours\n" + entry_for(sample), "utf-8")
    return path


def test_a_recorded_version_is_found_by_its_digests(record: Path, sample: Constitution) -> None:
    digests = load_released(record).digests(sample)
    assert digests is not None
    assert (digests.behaviour, digests.release) == (sample.behaviour_digest, sample.release_digest)
    assert load_released(record).digests(replace(sample, version="1.2.1")) is None


def test_an_unchanged_release_passes_whatever_its_layout(record: Path, sample_text: str) -> None:
    check_unchanged(parse_constitution(f"# a remark\n{sample_text}", "x.yaml"), load_released(record))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("wander off", "ramble", "its ids, texts, weights or examples have changed since"),
        ("weight: 2", "weight: 3", "its ids, texts, weights or examples have changed since"),
        ("A sample", "The sample", "its title or tests have changed since"),
        ("Is 7 prime?", "Is 11 prime?", "its title or tests have changed since"),
    ],
)
def test_a_changed_release_is_refused(record: Path, sample_text: str, old: str, new: str, told: str) -> None:
    changed = parse_constitution(sample_text.replace(old, new, 1), "x.yaml")
    assert what_changed(changed, load_released(record)) == told
    with pytest.raises(InputError, match=r"x\.yaml: version 1\.2\.0 is released, and its"):
        check_unchanged(changed, load_released(record))


def test_a_new_version_may_say_anything(record: Path, sample_text: str) -> None:
    text = sample_text.replace("1.2.0", "1.3.0").replace("wander off", "ramble")
    check_unchanged(parse_constitution(text, "x.yaml"), load_released(record))


def test_without_a_record_nothing_is_released(tmp_path: Path, sample: Constitution) -> None:
    assert released_beside(tmp_path / "sample.yaml") is NOTHING_RELEASED
    (tmp_path / "released.yaml").write_text("# nothing yet\n", "utf-8")
    assert what_changed(sample, released_beside(tmp_path / "sample.yaml")) == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sample: 1.0.0", "here belongs a version with its digests, got 1.0.0"),
        ("- sample", "here belongs a constitution's id with its versions"),
        ("Sample:\n  1.0.0: {}", "here belongs a constitution's id with its versions, got Sample"),
        ("sample:\n  1.0: {behaviour: x, release: y}", "here belongs a version with its digests, got 1.0"),
        ("sample:\n  1.0.0: {behaviour: x}", "release is missing"),
        ("sample:\n  1.0.0: {behaviour: x, release: y}", "the behaviour digest must be 64 hexadecimal digits, got x"),
        ("sample:\n  1.0.0:\n", "there is nothing here"),
        ("sample:\n", "here belongs a version with its digests"),
        (f"sample:\n  1.0.0: {{behaviour: {'a' * 64}, release: {'A' * 64}}}", "the release digest must be 64"),
        ("sample:\n  1.0.0: {behavior: x, release: y}", "did you mean 'behaviour'?"),
    ],
)
def test_a_damaged_record_is_told_by_its_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "released.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        load_released(tmp_path / "released.yaml")
    assert told in str(caught.value)
    assert "released.yaml:" in str(caught.value)
