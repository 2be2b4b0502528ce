"""What these tests share: a small clean constitution as text, as a value and as a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cai.constitution.loading import parse_constitution
from cai.constitution.model import Constitution

SAMPLE = """\
id: sample
version: 1.2.0
title: A sample
principles:
  - id: no-invention
    critique: Point out claims in the last answer that are made up.
    revision: Replace what is made up with what is known.
    preference: Which answer holds fewer made-up claims?
    weight: 2
    tests:
      - {prompt: Who wrote Faust?, better: Goethe wrote it., worse: Schiller wrote it in 1771.}
  - id: to-the-point
    critique: Does the last answer wander off?
    revision: Begin with what was asked for, and end there.
    preference: Which answer comes to the point sooner?
    tests:
      - {prompt: Is 7 prime?, better: "Yes, it is.", worse: "Numbers are old. Seven is prime."}
examples:
  critiques:
    - {principle: to-the-point, prompt: Is 9 prime?, answer: "Well, well. No.", critique: It wanders., revision: "No."}
  comparisons:
    - {principle: no-invention, prompt: Who wrote Hamlet?, better: Shakespeare., worse: Goethe.}
"""


@pytest.fixture
def sample_text() -> str:
    return SAMPLE


@pytest.fixture
def sample() -> Constitution:
    return parse_constitution(SAMPLE, "sample.yaml")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Writes the sample, with texts replaced, to a file of its own."""

    def write(*changes: tuple[str, str], name: str = "sample.yaml") -> Path:
        text = SAMPLE
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        path = tmp_path / name
        path.write_text(text, "utf-8")
        return path

    return write
