"""What each part of the loop is worth: the quickstart with one part changed at a time, measured by the oracle.

    python bench/parts.py [--seeds 17 18 19] [--only NAME ...] [--work DIR]

Every row is a whole pipeline run (or, where only the labels differ, the same judged pairs with other labels and a new
DPO stage). Results go to `bench/results/parts.json`, and the table to `docs/parts.md`. An interrupted bench goes on
where it was.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cai.evaluate.suites import SUITES, run_suite
from cai.manifest import read_manifest, write_manifest
from cai.models.protocol import Request
from cai.models.scripted import ScriptedModel
from cai.models.tiny import phrasing
from cai.models.tiny.corpus import Draws
from cai.models.tiny.oracle import find_ask
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from cai.records import Preference, from_line, to_line
from cai.seeds import derive, uniform
from cai.strict_yaml import read_yaml

ROOT = Path(__file__).resolve().parent.parent
QUICKSTART = ROOT / "pipelines" / "quickstart.yaml"
METRICS = ("harmful_compliance", "over_refusal", "helpfulness", "honesty", "well_formed", "brevity")
FAMILIES = {"no-harm": "harm", "no-needless-refusal": "refusal", "honesty": "honesty", "brevity": "brevity"}
REFUSAL = "I will not {act}, because it hurts someone."


@dataclass(frozen=True)
class Variant:
    name: str
    says: str
    run: Callable[["Bench", str], dict[str, float]]


@dataclass(frozen=True)
class Bench:
    work: Path
    seed: int

    def pipeline(self, name: str, **changes: object) -> Pipeline:
        """The quickstart under another name, with some of its top-level keys replaced."""
        data = read_yaml(QUICKSTART).data
        assert isinstance(data, dict)
        path = self.work / f"{name}.yaml"
        path.write_text(json.dumps({**data, "name": name, "seed": str(self.seed), **changes}))
        return load_pipeline(path)

    def finish(self, pipeline: Pipeline) -> Path:
        """Runs what is not done yet; where nothing can be trained, says so instead of measuring."""
        folder = self.work / pipeline.spec.name
        for event in run_pipeline(pipeline, folder):
            if event.kind in ("stage_finished", "stage_skipped"):
                print(f"    {pipeline.spec.name}: {event.stage} {event.data['counts']}", file=sys.stderr, flush=True)
        return folder


def measured(folder: Path, model: str) -> dict[str, float]:
    rows = json.loads((folder / "report.json").read_text())["metrics"]
    return {row["metric"]: row["values"][model] for row in rows if model in row["values"]}


def quickstart_stage(kind: str, number: int = 0) -> dict[str, object]:
    data = read_yaml(QUICKSTART).data
    assert isinstance(data, dict)
    found = [entry for entry in data["stages"] if kind in entry]
    return dict(found[number])


def full(bench: Bench, model: str = "tuned") -> dict[str, float]:
    return measured(bench.finish(bench.pipeline(f"full-{bench.seed}")), model)


def dpo_alone(bench: Bench, name: str) -> dict[str, float]:
    sampled = {"prefer": {**_settings("prefer", 1), "from": "base"}}
    kept = [quickstart_stage("revise"), quickstart_stage("prefer"), sampled, quickstart_stage("dpo")]
    return measured(bench.finish(bench.pipeline(name, stages=[*kept, quickstart_stage("evaluate")])), "tuned")


def relabelled(bench: Bench, name: str, edit: Callable[[list[Preference], int], list[Preference]]) -> dict[str, float]:
    """The full run's judged pairs with other labels: only DPO and the evaluation are run again."""
    source, target = bench.work / f"full-{bench.seed}", bench.work / name
    if not (target / "stages").exists():
        full(bench)
        for folder in sorted((source / "stages").iterdir()):
            manifest = read_manifest(folder)
            if manifest is None or manifest.stage in ("dpo", "evaluate"):
                continue
            copy = target / "stages" / folder.name
            shutil.copytree(folder, copy)
            if manifest.stage != "prefer":
                continue
            path = copy / "records.jsonl"
            preferences = [from_line(Preference, line) for line in path.read_text().splitlines()]
            path.write_text("".join(to_line(p) + "\n" for p in edit(preferences, bench.seed)))
            (copy / "manifest.json").unlink()
            facts = (manifest.inputs, manifest.counts, manifest.facts)
            write_manifest(copy, manifest.stage, manifest.version, manifest.digest, *facts)
    changes = bench.pipeline(name)
    return measured(bench.finish(changes), "tuned")


def flip(preference: Preference) -> Preference:
    return dataclasses.replace(preference, chosen=preference.rejected, rejected=preference.chosen)


def flipped(preferences: list[Preference], _: int) -> list[Preference]:
    return [flip(preference) for preference in preferences]


def shuffled_labels(preferences: list[Preference], seed: int) -> list[Preference]:
    """Each pair's label is thrown anew: as sure as before, and right half of the time."""
    return [flip(p) if uniform(derive("shuffled", seed, p.id), 0) < 0.5 else p for p in preferences]


def random_judge(preferences: list[Preference], seed: int) -> list[Preference]:
    """What a judge that knows nothing would have said: any probability, of any pair."""
    judged = []
    for preference in preferences:
        p = uniform(derive("random judge", seed, preference.id), 0)
        turned = preference if p >= 0.5 else flip(preference)
        kind = "tie" if max(p, 1 - p) < 0.6 else "preferred"
        judged.append(dataclasses.replace(turned, p_chosen=max(p, 1 - p), kind=kind))
    return judged


def other_constitution(bench: Bench, name: str, path: Path) -> dict[str, float]:
    return measured(bench.finish(bench.pipeline(name, constitution=str(path))), "tuned")


def reworded(bench: Bench, name: str) -> dict[str, float]:
    """The shipped constitution with every text replaced by one of the test phrasings."""
    draws = Draws(derive("reworded", bench.seed))
    data = read_yaml(ROOT / "constitutions" / "tiny.yaml").data
    assert isinstance(data, dict)
    principles = []
    for principle in data["principles"]:
        family = FAMILIES[principle["id"]]
        texts = {
            "critique": draws.one_of(phrasing.critiques(family, "test")),
            "revision": draws.one_of(phrasing.revisions(family, "test")),
            "preference": draws.one_of(phrasing.preferences(family, "test")),
        }
        principles.append({**principle, **texts})
    path = bench.work / "reworded-constitution.yaml"
    path.write_text(json.dumps({**data, "id": "reworded", "principles": principles}))
    return other_constitution(bench, name, path)


def vacuous(bench: Bench, name: str) -> dict[str, float]:
    texts = {
        "critique": phrasing.critiques("nothing", "align")[0],
        "revision": phrasing.revisions("nothing", "align")[0],
        "preference": phrasing.preferences("nothing", "align")[0],
    }
    path = bench.work / "vacuous-constitution.yaml"
    path.write_text(
        json.dumps(
            {
                "id": "vacuous",
                "version": "1.0.0",
                "title": "Asks for nothing",
                "principles": [{"id": "nothing", **texts}],
            }
        )
    )
    return other_constitution(bench, name, path)


def refuse_everything(bench: Bench, name: str) -> dict[str, float]:
    def refuse(request: Request) -> str:
        ask = find_ask(request.messages[-1].content)
        assert ask is not None
        return REFUSAL.format(act=phrasing.act(ask))

    result = run_suite("tiny", ScriptedModel(refuse), bench.pipeline(name).test, bench.seed)
    shares = {}
    for metric in SUITES["tiny"].metrics:
        values = list(result.measured(metric).values())
        if values:
            shares[metric.name] = sum(values) / len(values)
    return shares


def _settings(kind: str, number: int = 0) -> dict[str, object]:
    settings = quickstart_stage(kind, number)[kind]
    assert isinstance(settings, dict)
    return settings


VARIANTS = (
    Variant("base", "the embedded model as it is", lambda b, _: full(b, "base")),
    Variant("sft", "SFT on revisions and helpful answers alone", lambda b, _: full(b, "sft")),
    Variant("full", "SFT, then DPO: the quickstart", lambda b, _: full(b)),
    Variant("dpo-alone", "DPO from the base, without SFT", dpo_alone),
    Variant("shuffled-labels", "the same pairs, labels thrown anew", lambda b, n: relabelled(b, n, shuffled_labels)),
    Variant("flipped-labels", "the same pairs, every label turned round", lambda b, n: relabelled(b, n, flipped)),
    Variant("random-judge", "the same pairs, judged at random", lambda b, n: relabelled(b, n, random_judge)),
    Variant("vacuous", "a constitution that asks for nothing", vacuous),
    Variant("refuse-everything", "a model that refuses every request", refuse_everything),
    Variant(
        "honesty",
        "the short honesty constitution",
        lambda b, n: other_constitution(b, n, ROOT / "constitutions" / "honesty.yaml"),
    ),
    Variant("reworded", "every principle in words of the test phrasings", reworded),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[17, 18, 19], help="the first one is used for every part"
    )
    parser.add_argument("--only", nargs="+", choices=[variant.name for variant in VARIANTS])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "parts")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    results = []
    for variant in VARIANTS:
        if asked.only and variant.name not in asked.only:
            continue
        for seed in asked.seeds if variant.name in ("base", "sft", "full") else asked.seeds[:1]:
            values = variant.run(Bench(asked.work, seed), f"{variant.name}-{seed}")
            results.append({"name": variant.name, "says": variant.says, "seed": seed, "values": values})
            print(f"{variant.name:18} {seed}  " + "  ".join(f"{values[m]:.3f}" for m in METRICS), flush=True)
    write_results(results)
    print(json.dumps({"bench": "parts", "results": results}))


def write_results(results: list[dict[str, object]]) -> None:
    target = ROOT / "bench" / "results" / "parts.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n")
    head = (
        "| part | seed | " + " | ".join(m.replace("_", " ") for m in METRICS) + " |\n|---|---|" + "---|" * len(METRICS)
    )
    lines = [INTRODUCTION, head]
    for result in results:
        values = result["values"]
        assert isinstance(values, dict)
        lines.append(
            f"| {result['says']} | {result['seed']} | " + " | ".join(f"{values[m]:.3f}" for m in METRICS) + " |"
        )
    (ROOT / "docs" / "parts.md").write_text("\n".join(lines) + "\n")


INTRODUCTION = """# What each part is worth

The quickstart on the embedded model with one part changed at a time; shares by the oracle on the test split, greedy
answers. Lower is better for harmful compliance and over-refusal, higher for the rest. Made by `python bench/parts.py`.
"""

if __name__ == "__main__":
    main()
