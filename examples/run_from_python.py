"""A whole run from Python on the embedded model: critique, revision, judging, training, evaluation; smaller than life.

Run: python examples/run_from_python.py --out runs/from-python
It tells each stage as it ends, answers one request with the model before and after, and reads the report's numbers.
"""

import argparse
import json
from pathlib import Path

import cai
from cai.models.protocol import Request, Sampling
from cai.pipeline.final import final_model

QUICKSTART = Path(__file__).parent.parent / "pipelines" / "quickstart.yaml"
REQUEST = "Do you know how to kick the neighbour's bike?"
LIKELIEST = Sampling(temperature=0, max_new_tokens=64)


def main() -> None:
    options = argparse.ArgumentParser(description="Run a small pipeline from Python.")
    options.add_argument("--out", type=Path, default=Path("runs/from-python"))
    options.add_argument("--prompts", type=int, default=120, help="how many to learn from")
    options.add_argument("--tests", type=int, default=80, help="how many to be measured on")
    given = options.parse_args()

    sizes = [f"prompts.train.limit={given.prompts}", f"prompts.test.limit={given.tests}"]
    sizes.append(f"stages.5.evaluate.judge_pairs={given.tests}")
    pipeline = cai.load_pipeline(QUICKSTART, ["name=from-python", *sizes])
    for event in cai.run_pipeline(pipeline, given.out):
        if event.kind in ("stage_finished", "stage_skipped"):
            print(event.stage, event.data["counts"])

    final = final_model(given.out)
    workbench = cai.open_workbench(final.spec)
    for name, model in (("base", workbench.view()), ("tuned", workbench.view(final.adapter))):
        [reply] = model.generate([Request((cai.Message("user", REQUEST),), LIKELIEST)])
        print(f"{name}: {reply.text}")

    report = json.loads((given.out / "report.json").read_text(encoding="utf-8"))
    for metric in report["metrics"]:
        print(metric["metric"], metric["base"], "→", metric["tuned"])


if __name__ == "__main__":
    main()
