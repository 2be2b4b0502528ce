"""What a stage reads, and the digest that names its folder.

The digest holds the stage's kind, version and settings, the seed, the model, and the content of everything it reads:
prompts, principles, records and adapters. A run's name, its folder and the place of a file are not in it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cai.constitution.model import Constitution
from cai.errors import InputError
from cai.feedback.styles import frames_digest_of
from cai.files import sha256_of
from cai.manifest import Manifest, verify_manifest
from cai.pipeline.configs import BASE, reasons, style_of
from cai.pipeline.desk import Desk
from cai.pipeline.final import find_final
from cai.pipeline.sources import Stage
from cai.pipeline.spec import Pipeline
from cai.pipeline.training_configs import LEARNING
from cai.records import Prompt, as_dict, digest
from cai.store.judge_told import CARD
from cai.store.run_folder import ADAPTER


@dataclass(frozen=True)
class Done:
    """A finished stage."""

    stage: Stage
    folder: Path
    manifest: Manifest

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER

    @property
    def adapter_digest(self) -> str:
        return _weights(self.manifest)


@dataclass(frozen=True)
class Inputs:
    """The files and values that one stage reads; paths are of other stages' folders and adapters."""

    name: str
    seed: int
    constitution: Constitution
    prompts: tuple[Prompt, ...]
    revisions: tuple[Path, ...]
    preferences: tuple[Path, ...]
    start: Path | None
    file: Path | None
    """What the user brought for this stage alone."""
    card: Path | None
    judge: Path | None
    """The adapter that judges, where it is not the base."""
    reward: Path | None
    """The reward model that says what answers are worth."""
    models: dict[str, Path | None]
    remotes: dict[str, str]
    digests: dict[str, str]


def gather(pipeline: Pipeline, stage: Stage, done: Mapping[int, Done], fingerprint: Callable[[], str]) -> Inputs:
    """What this stage reads, once the stages before it are done."""
    sources = stage.sources
    prompts = {"train": pipeline.train, "test": pipeline.test, None: ()}[sources.prompts]
    digests = {"model": fingerprint()} if sources.local else {}
    digests |= {role: pipeline.spec.models[name].fingerprint for role, name in sources.remotes.items()}
    if sources.prompts:
        digests["prompts"] = digest([as_dict(prompt) for prompt in prompts])
    if sources.constitution:
        digests["constitution"] = pipeline.constitution.behaviour_digest
        digests["frames"] = frames_digest_of(style_of(stage.config), reasoned=reasons(stage.config))
    # Counted among themselves: what the stages before made decides, not where they stand.
    for what, numbers in (("revisions", sources.revisions), ("preferences", sources.preferences)):
        for i, number in enumerate(numbers, 1):
            digests[f"{what} {i}"] = done[number].manifest.files["records.jsonl"].sha256
    if stage.kind in LEARNING:
        assert pipeline.model is not None, f"{stage.name} has nothing to train"
        digests["lora"] = digest(asdict(pipeline.model.lora))
    file = pipeline.files.get(stage.number)
    if file is not None:
        digests["file"] = sha256_of(file)
    if sources.card:
        digests["card"] = done[sources.card].manifest.files[CARD].sha256
    if sources.judge:
        digests["adapter judge"] = done[sources.judge].adapter_digest
    if sources.reward:
        digests["adapter reward"] = done[sources.reward].adapter_digest
    start = None
    if sources.start:
        start, digests["adapter start"] = done[sources.start].adapter, done[sources.start].adapter_digest
    elif sources.start_run:
        start, digests["adapter start"] = adapter_of_run(sources.start_run, digests["model"])
    for name, trained in sources.models.items():
        digests[f"adapter {name}"] = done[trained].adapter_digest if trained else "none"
    return Inputs(
        name=stage.name,
        seed=pipeline.spec.seed,
        constitution=pipeline.constitution,
        prompts=prompts,
        revisions=tuple(done[number].folder for number in sources.revisions),
        preferences=tuple(done[number].folder for number in sources.preferences),
        start=start,
        file=file,
        card=done[sources.card].folder if sources.card else None,
        judge=done[sources.judge].adapter if sources.judge else None,
        reward=done[sources.reward].adapter if sources.reward else None,
        models={name: done[number].adapter if number else None for name, number in sources.models.items()},
        remotes=sources.remotes,
        digests=digests,
    )


def adapter_of_run(name: str, model: str) -> tuple[Path, str]:
    """Another run's adapter and the digest of its weights. It must have been trained on what this run works with."""
    final = find_final(name)
    if final is None:
        raise InputError(name, "there is no such run any more", None, "run it again, or start from another")
    manifest = verify_manifest(final.adapter.parent)
    if manifest.inputs["model"] != model:
        problem = "was trained on another base model, quantisation, precision, template or date than this run's"
        raise InputError(name, problem, None, "give both runs the same `model`")
    return final.adapter, _weights(manifest)


def stage_digest(stage: Stage, version: int, inputs: Inputs) -> str:
    # What a file holds is among the digests of what is read; where it lies must not matter.
    place = {"file", "data"} if inputs.file else set()
    settings = stage.config.model_dump(mode="json", by_alias=True, exclude=place)
    return digest([stage.kind, version, settings, inputs.seed, inputs.digests])


def stage_facts(stage: Stage, inputs: Inputs, desk: Desk) -> dict[str, object]:
    """What a finished stage's manifest says of how it was made: enough to trace a record without any other file."""
    facts: dict[str, object] = {
        "config": stage.config.model_dump(mode="json", by_alias=True),
        "seed": inputs.seed,
    }
    if stage.sources.local:
        facts["machine"] = desk.workbench().facts
    if stage.sources.constitution:
        facts["constitution"] = constitution_facts(inputs.constitution)
    if stage.kind not in LEARNING:
        facts["models"] = _names_of_models(stage, inputs, desk)
    if inputs.remotes:
        asked = sorted(set(inputs.remotes.values()))
        facts["remotes"] = {name: desk.remote(name).facts for name in asked}
    return facts


def constitution_facts(constitution: Constitution) -> dict[str, object]:
    texts = {
        p.id: {"critique": p.critique, "revision": p.revision, "preference": p.preference, "weight": p.weight}
        for p in constitution.principles
    }
    return {
        "id": constitution.id,
        "version": constitution.version,
        "title": constitution.title,
        "digest": constitution.behaviour_digest,
        "principles": texts,
    }


def _names_of_models(stage: Stage, inputs: Inputs, desk: Desk) -> dict[str, str]:
    """Fingerprint to name, of every model that a record of this stage may tell of."""
    names = {spec.fingerprint: name for name, spec in desk.remote_specs.items()}
    if stage.sources.local:
        owned = {_owner(path): path for path in (*inputs.models.values(), inputs.judge) if path}
        if inputs.start:
            owned[stage.sources.start_run or _owner(inputs.start)] = inputs.start
        names |= {desk.view(path).fingerprint: name for name, path in {BASE: None, **owned}.items()}
    return names


def _weights(manifest: Manifest) -> str:
    """Of an adapter's weights: the configuration beside them may name where its base lies."""
    files = {name: fact.sha256 for name, fact in manifest.files.items() if name.startswith(f"{ADAPTER}/")}
    weights = {name: sha256 for name, sha256 in files.items() if name.endswith(".safetensors")}
    assert weights, f"{manifest.stage} has no adapter"
    return digest(weights)


def _owner(adapter: Path) -> str:
    """The training stage that made an adapter."""
    return adapter.parent.name.rpartition("-")[0]
