"""Principles in other layouts become constitutions that the loader and the linter take."""

import json
import os
from pathlib import Path

import pytest

from cai.constitution.importers import import_constitution
from cai.constitution.lint import lint
from cai.errors import InputError

PUBLISHED = Path(os.environ.get("CAI_REAL_DATA", "none")) / "constitutional_harmlessness" / "prompts"


def imported(folder: Path, name: str, content: object) -> tuple[list[tuple[str, str, str, str]], tuple[str, ...]]:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    made = import_constitution(path)
    assert not [finding for finding in lint(made.constitution) if finding.severity == "error"]
    return [(p.id, p.critique, p.revision, p.preference) for p in made.constitution.principles], made.notes


def test_the_papers_critique_and_revision_instructions(tmp_path: Path) -> None:
    entry = {
        "prompt": ["\n\nCritiqueRequest: Say where the last response is unkind.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Rewrite the response to be kinder.\n\nRevision:",
    }
    found, notes = imported(tmp_path, "a.json", {"harmful0": entry, "harmful1": entry})
    assert found == [("harmful0", "Say where the last response is unkind.", "Rewrite the response to be kinder.", "")]
    assert "harmful1 was left out: it says the same as harmful0" in notes


def test_the_papers_comparison_instructions(tmp_path: Path) -> None:
    found, _ = imported(tmp_path, "b.json", ["\nPlease choose the kinder response. Options:"])
    assert found == [("choice-1", "", "", "Please choose the kinder response.")]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="CAI_REAL_DATA names no folder with the paper's files")
def test_the_papers_own_files_come_in_as_they_are() -> None:
    """All 16 principles of each, word for word but for the frame around them, and the linter takes them."""
    revising = import_constitution(PUBLISHED / "CritiqueRevisionInstructions.json").constitution
    written = json.loads((PUBLISHED / "CritiqueRevisionInstructions.json").read_text("utf-8"))
    assert {p.id for p in revising.principles} == {f"harmful{i}" for i in range(16)} == written.keys()
    for principle in revising.principles:
        entry = written[principle.id]
        frames = ("CritiqueRequest:", "Critique:", "RevisionRequest:", "Revision:")
        said = " ".join(f"{entry['prompt'][0]} {entry['edit_request']}".split())
        for frame in frames:
            said = said.replace(frame, "")
        assert " ".join(said.split()) == f"{principle.critique} {principle.revision}"
    judging = import_constitution(PUBLISHED / "RLMadisonInstructions.json").constitution
    asked = json.loads((PUBLISHED / "RLMadisonInstructions.json").read_text("utf-8"))
    assert sorted(p.preference for p in judging.principles) == sorted(
        " ".join(text.replace("Options:", "").split()) for text in asked
    )
    assert len(judging.principles) == len(revising.for_use("revise")) == len(judging.for_use("judge")) == 16
    for made in (revising, judging):
        assert not [finding for finding in lint(made) if finding.severity == "error"]


def test_llm_swarms_file(tmp_path: Path) -> None:
    content = {
        "constitutions": [{"critic": "Say where the reply is rude.", "revision": "Rewrite the reply politely."}],
        "system_chat": [[{"role": "user", "content": "x"}]],
    }
    found, notes = imported(tmp_path, "c.json", content)
    assert found == [("principle-1", "Say where the reply is rude.", "Rewrite the reply politely.", "")]
    assert notes[0].startswith("1 worked chats (system_chat) were left out")


def test_markdown_by_bullet_and_by_heading(tmp_path: Path) -> None:
    found, _ = imported(
        tmp_path, "d.md", "# Ours\n\n- **Kindness**: be kind to\n  children.\n- Be *honest* about limits.\n"
    )
    assert [name for name, *_ in found] == ["be-honest-about-limits", "kindness"]
    assert found[1][3] == "Which response better follows this principle: Kindness: be kind to children."
    found, _ = imported(tmp_path, "e.md", "# Ours\n\n## Be kind\n\nTo everyone, always.\n")
    assert found[0][0] == "be-kind"


@pytest.mark.parametrize("content", ["", "prose without a principle", "{", '{"a": 1}', "[]", '{"constitutions": [{}]}'])
def test_what_holds_no_principle_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=r"x\.txt"):
        import_constitution(path)
