"""What each part of the loop is worth: the quickstart with one part changed at a time, measured by the oracle.

    python bench/parts.py [--seeds 17 18 19] [--only NAME ...] [--work DIR]

Every row is a whole pipeline run. Where only the labels differ, it is DPO alone on the same judged pairs with other
labels: after SFT too little is left to gain for labels to show. There is something to lose, so flipped labels are also
shown there. Results go to `bench/results/parts.json`, the table to `docs/parts.md`. An interrupted bench goes on where
it was.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cai.errors import InputError
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
SAYS = {
    "harmful_compliance": "harmful requests served",
    "honesty": "honest about what nobody can know",
    "helpfulness": "helpful on harmless requests",
    "over_refusal": "harmless requests refused",
    "well_formed": "well formed",
}
START, END = "<!-- figures: bench/parts.py -->", "<!-- end of figures -->"
DPO_ALONE = {"learning_rate": "7e-4", "epochs": 2}
"""From the base there is further to go than after SFT; chosen on the tune split."""
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
        """Runs what is not done yet."""
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


def dpo_alone(bench: Bench, name: str) -> Pipeline:
    """Judged revisions and judged samples of the base itself, and DPO from the base on all of them."""
    sampled = {"prefer": {**_settings("prefer", 1), "from": "base"}}
    trained = {"dpo": {**_settings("dpo"), **DPO_ALONE}}
    kept = [quickstart_stage("revise"), quickstart_stage("prefer"), sampled, trained, quickstart_stage("evaluate")]
    return bench.pipeline(name, stages=kept)


def quickstart(bench: Bench, name: str) -> Pipeline:
    return bench.pipeline(name)


def relabelled(
    bench: Bench,
    name: str,
    edit: Callable[[list[Preference], int], list[Preference]],
    source_name: str = "dpo-alone",
    made: Callable[[Bench, str], Pipeline] = dpo_alone,
) -> dict[str, float]:
    """The pairs of another run with other labels: only DPO and the evaluation are run again."""
    source, target = bench.work / f"{source_name}-{bench.seed}", bench.work / name
    if not (target / "stages").exists():
        bench.finish(made(bench, source.name))
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
    return measured(bench.finish(made(bench, name)), "tuned")


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
        kind: Literal["tie", "preferred"] = "tie" if max(p, 1 - p) < 0.6 else "preferred"
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
    try:
        return other_constitution(bench, name, path)
    except InputError as error:
        print(f"    {name}: {error}; measured after SFT", file=sys.stderr, flush=True)
        kept = [quickstart_stage(kind) for kind in ("revise", "prefer", "sft", "evaluate")]
        sft_alone = bench.pipeline(f"{name}-sft", constitution=str(path), stages=kept)
        return measured(bench.finish(sft_alone), "tuned")


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
    Variant("dpo-alone", "DPO from the base, without SFT", lambda b, n: measured(b.finish(dpo_alone(b, n)), "tuned")),
    Variant("shuffled-labels", "DPO from the base, labels thrown anew", lambda b, n: relabelled(b, n, shuffled_labels)),
    Variant("flipped-labels", "DPO from the base, every label turned round", lambda b, n: relabelled(b, n, flipped)),
    Variant(
        "sft-flipped",
        "SFT, then DPO with every label turned round",
        lambda b, n: relabelled(b, n, flipped, "full", quickstart),
    ),
    Variant("random-judge", "DPO from the base, judged at random", lambda b, n: relabelled(b, n, random_judge)),
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


def with_earlier(results: list[dict[str, object]], target: Path) -> list[dict[str, object]]:
    """These and those that an earlier call measured and this one has not."""
    now = {(row["name"], row["seed"]) for row in results}
    earlier = json.loads(target.read_text("utf-8")) if target.exists() else []
    order = [variant.name for variant in VARIANTS]
    found = [*results, *(row for row in earlier if (row["name"], row["seed"]) not in now)]
    return sorted(found, key=lambda row: (order.index(str(row["name"])), int(str(row["seed"]))))


def write_results(new: list[dict[str, object]]) -> None:
    target = ROOT / "bench" / "results" / "parts.json"
    target.parent.mkdir(exist_ok=True)
    results = with_earlier(new, target)
    target.write_text(json.dumps(results, indent=1) + "\n")
    if not {"base", "sft", "full"} <= {str(row["name"]) for row in results}:
        return
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
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{readme_table(results)}\n{END}{after}", "utf-8")


def readme_table(results: list[dict[str, object]]) -> str:
    """The demo's figures: the base, after SFT and after DPO, of the first seed."""
    seed = min(int(str(result["seed"])) for result in results)
    values = {result["name"]: result["values"] for result in results if result["seed"] == seed}
    lines = ["| | base | after SFT | after DPO |", "|---|---|---|---|"]
    for metric, says in SAYS.items():
        shares = [dict(values[name])[metric] for name in ("base", "sft", "full")]  # type: ignore[call-overload]
        lines.append(f"| {says} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |")
    return "\n".join(lines)


INTRODUCTION = """# What each part is worth

The quickstart on the embedded model with one part changed at a time; shares by the oracle on the test split, greedy
answers. Lower is better for harmful compliance and over-refusal, higher for the rest. Made by `python bench/parts.py`.
"""

if __name__ == "__main__":
    main()
