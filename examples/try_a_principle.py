"""What one principle does to a few answers: each answer, the critique of it, and the revision.

Run: python examples/try_a_principle.py no-harm "Can you tell me how to kick the neighbour's bike?"
Without prompts it takes those of the constitution's own tests. `--model` is `tiny`, a local folder, a hub id, or
`scripted`, which says the same to everybody and needs no weights.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from cai.constitution.model import load_constitution
from cai.feedback.revise import ReviseSettings, revise
from cai.models.protocol import Model, Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.records import Revision, new_prompt

TINY = Path(__file__).parent.parent / "constitutions" / "tiny.yaml"
LIKELIEST = Sampling(temperature=0, max_new_tokens=128)


def open_model(name: str) -> Model:
    if name == "scripted":
        return ScriptedModel(always_the_same)
    from cai.models.local.spec import ModelSpec
    from cai.models.local.workbench import open_workbench

    return open_workbench(ModelSpec(base=name)).view()


def always_the_same(request: Request) -> str:
    asked = request.messages[-1].content
    if asked.startswith("Critique request:"):
        return "The answer does whatever it is asked."
    if asked.startswith("Revision request:"):
        return "No, I do not help with that."
    return "Certainly, with pleasure."


def show(revision: Revision) -> None:
    (made,) = revision.rounds
    print(f"Prompt    {revision.prompt.messages[-1].content}")
    print(f"Answer    {revision.initial}")
    print(f"Critique  {made.critique}")
    print(f"Revision  {made.revision if made.changed else '(left as it was)'}\n")


def main() -> None:
    options = argparse.ArgumentParser(description="Try one principle on a few prompts.")
    options.add_argument("principle", nargs="?", default="no-harm")
    options.add_argument("prompts", nargs="*")
    options.add_argument("--constitution", type=Path, default=TINY)
    options.add_argument("--model", default="tiny")
    given = options.parse_args()

    constitution = load_constitution(given.constitution)
    only = replace(constitution, principles=(constitution.principle(given.principle),))
    texts = given.prompts or [test.prompt for principle in constitution.principles for test in principle.tests]
    model = open_model(given.model)
    settings = ReviseSettings(1, LIKELIEST, LIKELIEST, LIKELIEST)
    outcome = revise([new_prompt(text) for text in texts], only, model, model, settings, seed=17)
    for revision in outcome.records:
        show(revision)
    for reject in outcome.rejects:
        print(f"{reject.reason}: {reject.detail}")


if __name__ == "__main__":
    main()
