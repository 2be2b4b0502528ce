"""Principles that others wrote, as a constitution of ours: the paper's JSON, llm-swarm's JSON, Markdown.

The text of a principle is kept; the frames around it, which this project puts there itself, are taken off. Everything
that was changed or left out is told in a note.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cai.constitution.loading import MAX_TEXT, is_id, parse_constitution
from cai.constitution.model import TEXTS, Constitution
from cai.errors import InputError, shorten

MAX_BYTES = 2 * 1024 * 1024


@dataclass
class Draft:
    """Principles on the way to a file: name and texts, and what was done to them."""

    layout: str
    principles: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ImportedConstitution:
    """The file's text, the constitution that it is read as, and notes for the author."""

    text: str
    constitution: Constitution
    layout: str
    notes: tuple[str, ...]


def import_constitution(path: Path, name: str = "") -> ImportedConstitution:
    text = _read(path)
    draft = _from_json(text, path) if text.lstrip()[:1] in ("{", "[") else _from_markdown(text, path)
    _drop_copies(draft)
    if not draft.principles:
        raise InputError(str(path), "has no principle that could be used", None, "each needs a text")
    identity = name or _slug(path.stem, "imported")
    if not is_id(identity):
        raise InputError("--id", "has another form", identity, "use small letters, digits and single hyphens")
    written = as_yaml(identity, f"Imported from {path.name}", draft)
    return ImportedConstitution(written, parse_constitution(written, path.name), draft.layout, tuple(draft.notes))


def as_yaml(identity: str, title: str, draft: Draft) -> str:
    lines = [f"id: {identity}", "version: 0.1.0", f"title: {_quoted(title)}", "principles:"]
    for principle in draft.principles:
        lines.append(f"  - id: {principle['id']}")
        lines += [f"    {name}: {_quoted(principle[name])}" for name in TEXTS if principle.get(name)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON text is a YAML text.
    return json.dumps(text, ensure_ascii=False)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})", None, "name a readable file") from error
    if len(data) > MAX_BYTES:
        raise InputError(str(path), f"is larger than {MAX_BYTES} bytes", len(data), "a constitution is a short text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(str(path), "is not UTF-8 text", None, "save the file as UTF-8") from error


def _from_json(text: str, path: Path) -> Draft:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"is not JSON ({error})", None, "repair the file") from None
    if isinstance(value, dict) and isinstance(value.get("constitutions"), list):
        return _from_swarm(value, path)
    if isinstance(value, dict) and value and all(isinstance(v, dict) and "edit_request" in v for v in value.values()):
        return _from_instructions(value, path)
    if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
        return _from_choices(value)
    remedy = "known: {name: {prompt, edit_request}}, a list of texts, {constitutions: [{critic, revision}]}, Markdown"
    raise InputError(str(path), "has no layout that is known", shorten(text, 60), remedy)


def _from_instructions(value: Mapping[str, Mapping[str, object]], path: Path) -> Draft:
    draft = Draft("critique and revision instructions of the Constitutional AI paper")
    for name, entry in value.items():
        prompt = entry.get("prompt")
        critique = prompt[0] if isinstance(prompt, list) and prompt else prompt
        for key, text in (("prompt", critique), ("edit_request", entry["edit_request"])):
            if not isinstance(text, str):
                raise InputError(f"{path}: {name}.{key}", "must be text", text, "repair the file")
        texts = {"critique": _unframed(str(critique)), "revision": _unframed(str(entry["edit_request"]))}
        _add(draft, _slug(name, f"principle-{len(draft.principles) + 1}"), texts)
    draft.notes.append("the marks CritiqueRequest, Critique, RevisionRequest and Revision were taken off each text")
    draft.notes.append("no principle has a preference, so none judges pairs; write one to each that should")
    return draft


def _from_choices(value: Sequence[str]) -> Draft:
    draft = Draft("comparison instructions of the Constitutional AI paper")
    for number, text in enumerate(value, 1):
        preference = re.sub(r"\s*Options:\s*\Z", "", text).strip()
        _add(draft, f"choice-{number}", {"preference": preference})
    draft.notes.append("the word 'Options:' was taken off the end of each text")
    draft.notes.append("no principle has a critique and a revision, so none revises; write them to those that should")
    return draft


def _from_swarm(value: Mapping[str, object], path: Path) -> Draft:
    draft = Draft("llm-swarm's constitutions")
    entries = value["constitutions"]
    assert isinstance(entries, list), entries
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("critic", "revision")):
            raise InputError(f"{path}: constitutions[{number - 1}]", "needs the texts critic and revision", entry, "")
        texts = {"critique": _unframed(entry["critic"]), "revision": _unframed(entry["revision"])}
        _add(draft, f"principle-{number}", texts)
    chats = value.get("system_chat")
    if isinstance(chats, list) and chats:
        draft.notes.append(f"{len(chats)} worked chats (system_chat) were left out: they belong to no principle")
    draft.notes.append("no principle has a preference, so none judges pairs; write one to each that should")
    return draft


_BULLET = re.compile(r"(\s*)(?:[-*+]|\d+[.)])\s+(.*)")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*\Z")


def _from_markdown(text: str, path: Path) -> Draft:
    """Each bullet is a principle; where there are none, each lowest heading with the prose below it is one."""
    draft = Draft("Markdown")
    blocks = _bullets(text) or _sections(text)
    for name, prose in blocks:
        texts = {
            "critique": f"Identify ways in which the last response goes against this principle: {prose}",
            "revision": f"Rewrite the response so that it follows this principle: {prose}",
            "preference": f"Which response better follows this principle: {prose}",
        }
        _add(draft, _slug(name, f"principle-{len(draft.principles) + 1}"), texts)
    if not blocks:
        raise InputError(str(path), "has no bullet and no heading with text below it", None, "write one a principle")
    draft.notes.append("critique, revision and preference were made from the prose of each principle; reword them")
    return draft


def _bullets(text: str) -> list[tuple[str, str]]:
    found: list[list[str]] = []
    for line in text.splitlines():
        if bullet := _BULLET.match(line):
            found.append([bullet[2]])
        elif found and line.startswith((" ", "\t")) and line.strip():
            found[-1].append(line.strip())
    plain = [_plain(" ".join(lines)) for lines in found]
    return [(_name_of(prose), prose) for prose in plain if prose]


def _sections(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            found.append((heading[2], []))
        elif found:
            found[-1][1].append(line)
    return [(name, prose) for name, lines in found if (prose := _plain(" ".join(lines)))]


def _plain(text: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[*_`]{1,3}([^*_`]+)[*_`]{1,3}", r"\1", text).split())


def _name_of(prose: str) -> str:
    """The label before a colon where there is a short one, else the first words."""
    label, colon, _ = prose.partition(":")
    return label if colon and len(label.split()) <= 5 else " ".join(prose.split()[:5])


def _unframed(text: str) -> str:
    text = re.sub(r"\A\s*(?:CritiqueRequest|RevisionRequest|Critique Request|Revision Request)\s*:\s*", "", text)
    return re.sub(r"\s*(?:Critique|Revision)\s*:\s*\Z", "", text).strip()


def _add(draft: Draft, name: str, texts: dict[str, str]) -> None:
    taken = {principle["id"] for principle in draft.principles}
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name[:58]}-{number}", number + 1
    kept: dict[str, str] = {}
    for field_name, text in texts.items():
        clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", " ", text).strip()
        if clean != text:
            draft.notes.append(f"{unique}: control characters in the {field_name} became spaces")
        if len(clean) > MAX_TEXT:
            clean = clean[: MAX_TEXT - 1].rsplit(" ", 1)[0] + "…"
            draft.notes.append(f"{unique}: the {field_name} was cut at {MAX_TEXT} characters")
        kept[field_name] = clean
    if all(kept.values()):
        draft.principles.append({"id": unique, **kept})
    else:
        draft.notes.append(f"{unique} was left out: one of its texts is empty")


def _drop_copies(draft: Draft) -> None:
    """Of principles with the same texts the first stays; a copy would only add weight without saying so."""
    seen: dict[tuple[str, ...], str] = {}
    kept = []
    for principle in draft.principles:
        key = tuple(" ".join(principle.get(name, "").lower().split()) for name in TEXTS)
        if key in seen:
            draft.notes.append(f"{principle['id']} was left out: it says the same as {seen[key]}")
        else:
            seen[key] = principle["id"]
            kept.append(principle)
    draft.principles = kept


def _slug(text: str, instead: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-")
    return slug if is_id(slug) else instead
