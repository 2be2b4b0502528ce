"""Which versions of which constitutions are out, by their digests: what is released never changes.

The file is `released.yaml` beside the constitutions: id, then version, then both digests. `lint` compares a
constitution with it; writing it is an author's deliberate act, so nothing here does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from semver import Version

from cai.constitution.loading import is_id
from cai.constitution.model import Constitution
from cai.errors import InputError
from cai.strict_yaml import Document, read_yaml, validated

FILE_NAME = "released.yaml"

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Digests(BaseModel):
    """What a released version must still come to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    behaviour: str
    release: str


@dataclass(frozen=True)
class Released:
    versions: Mapping[str, Mapping[str, Digests]] = field(default_factory=dict)
    path: str = ""

    def digests(self, constitution: Constitution) -> Digests | None:
        """What this id and version were released as, if they were."""
        return self.versions.get(constitution.id, {}).get(constitution.version)


NOTHING_RELEASED = Released()


def load_released(path: Path) -> Released:
    document = read_yaml(path)
    if document.data is None:
        return Released(path=document.name)
    found = _named(document, ())
    versions = {name: {text: _digests(document, name, text) for text in _named(document, (name,))} for name in found}
    return Released(versions, document.name)


def released_beside(path: Path) -> Released:
    """The releases recorded in this constitution's folder; none where nobody records any."""
    beside = path.parent / FILE_NAME
    return load_released(beside) if beside.exists() else NOTHING_RELEASED


def check_unchanged(constitution: Constitution, released: Released) -> None:
    """Refuses a constitution that differs from what its version was released as."""
    if told := what_changed(constitution, released):
        raise InputError(
            constitution.path or constitution.id,
            f"version {constitution.version} is released, and {told}",
            None,
            "take the change back or give it a new version",
        )


def what_changed(constitution: Constitution, released: Released) -> str:
    """In words, what differs from the release of the same version; empty when nothing does or none is recorded."""
    digests = released.digests(constitution)
    if digests is None:
        return ""
    if digests.behaviour != constitution.behaviour_digest:
        return "its ids, texts, weights or examples have changed since"
    if digests.release != constitution.release_digest:
        return "its title or tests have changed since"
    return ""


def entry_for(constitution: Constitution) -> str:
    """The lines that record this constitution as released."""
    return (
        f"{constitution.id}:\n"
        f"  {constitution.version}:\n"
        f"    behaviour: {constitution.behaviour_digest}\n"
        f"    release: {constitution.release_digest}\n"
    )


def _named(document: Document, at: tuple[str, ...]) -> list[str]:
    """The names that stand at these keys, each in its right form."""
    here: object = document.data
    for key in at:
        here = here.get(key) if isinstance(here, dict) else None
    what = "a version with its digests" if at else "a constitution's id with its versions"
    if not isinstance(here, dict):
        raise InputError(document.place(*at), f"here belongs {what}", here, "see docs/constitutions.md")
    for name in here:
        if not (Version.is_valid(name) if at else is_id(name)):
            raise InputError(document.place(*at, name), f"here belongs {what}", name, "see docs/constitutions.md")
    return list(here)


def _digests(document: Document, name: str, version: str) -> Digests:
    read = validated(document, Digests, (name, version))
    for key, value in (("behaviour", read.behaviour), ("release", read.release)):
        if not _DIGEST.fullmatch(value):
            place = document.place(name, version, key)
            raise InputError(
                place, f"the {key} digest must be 64 hexadecimal digits", value, "`cai constitution show` prints it"
            )
    return read
