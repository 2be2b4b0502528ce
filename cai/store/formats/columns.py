"""The columns that stand beside a row in layouts that allow more than they ask for: soft label, kind and lineage.

Names follow what people look for (`judge_prob`, `constitution_sha256`). Written and read back, a row is the same row.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from cai.records import Lineage, Preference, Prompt, Verdict, from_dict
from cai.store.formats.rows import UNKNOWN, Answered, BadRowError, Columns, text_in

_LINEAGE = {
    "constitution": "constitution_sha256",
    "frames": "frames_sha256",
    "answerer": "answerer_model",
    "critic": "critic_model",
    "judge": "judge_model",
    "judged_by": "judged_by",
}


@dataclass(frozen=True, slots=True)
class Named:
    """What people call the constitution whose digest stands in the rows."""

    constitution_id: str = ""
    constitution_version: str = ""


def preference_columns(row: Preference, named: Named) -> Columns:
    principles = list(dict.fromkeys(verdict.principle_id for verdict in row.verdicts))
    lineage = {column: getattr(row.lineage, field) for field, column in _LINEAGE.items()}
    return {
        "id": row.id,
        "prompt_id": row.prompt.id,
        "source": row.prompt.source,
        "origin": row.origin,
        "kind": row.kind,
        "judge_prob": row.p_chosen,
        "order_flipped": any((v.p_first - 0.5) * (v.p_first_swapped - 0.5) < 0 for v in row.verdicts),
        "principle_id": ",".join(principles),
        "verdicts": [dataclasses.asdict(verdict) for verdict in row.verdicts],
        "constitution_id": named.constitution_id,
        "constitution_version": named.constitution_version,
        **lineage,
        "seed": row.lineage.seed,
    }


def answered_columns(row: Answered) -> Columns:
    return {"id": row.id, "prompt_id": row.prompt.id, "source": row.prompt.source, "origin": row.origin}


def preference_from(row: Mapping[str, object], prompt: Prompt, chosen: str, rejected: str) -> Preference:
    """The pair with what the columns say of it; a pair without them is somebody's plain label."""
    if chosen == rejected:
        raise BadRowError("rejected", "is the same as chosen", rejected, "identical answers")
    kind = row.get("kind")
    return Preference(
        prompt=identified(row, prompt),
        chosen=chosen,
        rejected=rejected,
        p_chosen=_probability(row),
        verdicts=_verdicts(row.get("verdicts")),
        # Foreign files have columns called kind that mean something else.
        kind="tie" if kind == "tie" else "contradiction" if kind == "contradiction" else "preferred",
        lineage=_lineage(row),
        origin=text_in(row, "origin", "") if isinstance(row.get("origin"), str) else "",
    )


def answered_from(row: Mapping[str, object], prompt: Prompt, completion: str, label: bool | None) -> Answered:
    origin = text_in(row, "origin", "") if isinstance(row.get("origin"), str) else ""
    return Answered(identified(row, prompt), completion, label, origin)


def identified(row: Mapping[str, object], prompt: Prompt) -> Prompt:
    """The prompt under the id and the source that the columns give it, where they are ours."""
    if "constitution_sha256" not in row and "prompt_id" not in row:
        return prompt
    known, source = row.get("prompt_id"), row.get("source")
    if isinstance(source, str):
        prompt = dataclasses.replace(prompt, source=source)
    return dataclasses.replace(prompt, id=known) if isinstance(known, str) and known else prompt


def label_in(row: Mapping[str, object], field: str) -> bool:
    label = row.get(field)
    if isinstance(label, bool):
        return label
    if isinstance(label, int | float) and label in (0, 1):
        return bool(label)
    if isinstance(label, str) and label.lower() in ("true", "false"):
        return label.lower() == "true"
    raise BadRowError(field, "must be true or false", label)


def _probability(row: Mapping[str, object]) -> float:
    for field in ("judge_prob", "p_chosen"):
        value = row.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise BadRowError(field, "must be a probability between 0 and 1", value)
        return float(value)
    return 1.0


def _verdicts(value: object) -> tuple[Verdict, ...]:
    if not value:
        return ()
    if not isinstance(value, list):
        raise BadRowError("verdicts", "must be a list", value)
    try:
        return tuple(from_dict(Verdict, each) for each in value)
    except ValueError as error:
        raise BadRowError("verdicts", f"cannot be read ({error})") from None


def _lineage(row: Mapping[str, object]) -> Lineage:
    if "constitution_sha256" not in row:
        return UNKNOWN
    seed = row.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BadRowError("seed", "must be a whole number", seed)
    return Lineage(seed=seed, **{field: text_in(row, column, "") for field, column in _LINEAGE.items()})
