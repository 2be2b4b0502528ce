"""What prompts are made about: topics with seeds of each kind, from a YAML file, from a file of prompts, or our own.

Seeds show what is wanted and are never themselves made. How a model is asked stands in `prompt_frames`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from cai.errors import InputError
from cai.store.formats.prompts import PromptRow, prompt_rows
from cai.strict_yaml import read_yaml, validated

Kind = Literal["harmful", "borderline", "benign", "domain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order in which they are made: a borderline prompt is the twin of a harmful one."""
OWN = Path(__file__).parent / "topics.yaml"


class Topic(BaseModel):
    """One thing to ask about, with examples of each kind."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    id: str = Field(min_length=1)
    """What the prompts' `topic` and `source` call it."""
    title: str = ""
    """How it stands in a sentence: "a request about …"; nothing where the seeds alone say it."""
    harmful: tuple[str, ...] = ()
    """What an assistant should turn down."""
    borderline: tuple[str, ...] = ()
    """What sounds as if it should be turned down, and should not."""
    benign: tuple[str, ...] = ()
    """What anybody may ask."""
    domain: tuple[str, ...] = ()
    """What people who work with it ask."""

    def seeds(self, kind: Kind) -> tuple[str, ...]:
        found: dict[Kind, tuple[str, ...]] = {
            "harmful": self.harmful,
            "borderline": self.borderline,
            "benign": self.benign,
            "domain": self.domain,
        }
        return found[kind]


class TopicFile(BaseModel):
    """A file of topics."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    topics: tuple[Topic, ...] = Field(min_length=1)
    """At least one."""


def load_topics(path: Path) -> tuple[Topic, ...]:
    document = read_yaml(path)
    topics = validated(document, TopicFile).topics
    known: set[str] = set()
    for number, topic in enumerate(topics):
        if topic.id in known:
            raise InputError(document.place("topics", number, "id"), "two topics have this id", topic.id, "rename one")
        known.add(topic.id)
        for kind in KINDS:
            for i, seed in enumerate(topic.seeds(kind)):
                if not seed.strip():
                    place = document.place("topics", number, kind, i)
                    raise InputError(place, "a seed says nothing", seed, "write a request or remove it")
    return topics


def topics_of_seeds(path: Path, kinds: Sequence[Kind]) -> tuple[Topic, ...]:
    """Topics from a file of prompts. Its rows say `kind` and `topic`; without a kind they are of the only one asked."""
    found: dict[str, dict[Kind, list[str]]] = {}
    for row in prompt_rows(path):
        named = row.columns.get("topic")
        topic = named if isinstance(named, str) and named else ""
        asked = next(m.content for m in reversed(row.prompt.messages) if m.role == "user")
        found.setdefault(topic, {}).setdefault(_kind_of(row, kinds), []).append(asked)
    if not found:
        raise InputError(str(path), "holds no seed", None, "put at least one prompt in it")
    return tuple(
        Topic.model_validate({"id": topic or path.stem, "title": topic, **by_kind}) for topic, by_kind in found.items()
    )


def _kind_of(row: PromptRow, kinds: Sequence[Kind]) -> Kind:
    told = row.columns.get("kind")
    for kind in KINDS:
        if told == kind:
            return kind
    if told is None and len(kinds) == 1:
        return kinds[0]
    problem = "the seed has no kind, and several are to be made" if told is None else "there is no such kind"
    raise InputError(row.place, problem, told, f"give it a column kind: {', '.join(KINDS)}; or make one kind at a time")
