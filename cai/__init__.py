"""Aligns a language model to a written constitution, by itself, on one machine.

    from pathlib import Path
    import cai

    constitution = cai.load_constitution(Path("constitutions/harmless-helpful.yaml"))
    pipeline = cai.load_pipeline(Path("pipelines/quickstart.yaml"))
    for event in cai.run_pipeline(pipeline):
        print(event)

These names are the public face; every other module may change. Each is imported when it is first used, so that
`import cai` is immediate and torch is loaded only once a model is.
"""

import importlib
import os
from typing import TYPE_CHECKING

# Threads that wait for each other spin for some microseconds and then give way: never to spin costs a quarter of a
# training's speed, and to spin for long makes it several times slower beside any other work. GNU's threads know the
# first name, others the second. It must be set before torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from cai.constitution.model import Constitution, load_constitution
    from cai.errors import CaiError, InputError
    from cai.feedback.judge import judge
    from cai.feedback.revise import revise
    from cai.models.local.spec import ModelSpec
    from cai.models.local.workbench import open_workbench
    from cai.models.remote.model import open_remote
    from cai.models.remote.spec import RemoteSpec
    from cai.pipeline.runner import run_pipeline
    from cai.pipeline.spec import load_pipeline
    from cai.records import Message, Preference, Prompt, Revision

__all__ = [
    "CaiError",
    "Constitution",
    "InputError",
    "Message",
    "ModelSpec",
    "Preference",
    "Prompt",
    "RemoteSpec",
    "Revision",
    "judge",
    "load_constitution",
    "load_pipeline",
    "open_remote",
    "open_workbench",
    "revise",
    "run_pipeline",
]

_HOMES = {
    "CaiError": "cai.errors",
    "Constitution": "cai.constitution.model",
    "InputError": "cai.errors",
    "Message": "cai.records",
    "ModelSpec": "cai.models.local.spec",
    "Preference": "cai.records",
    "Prompt": "cai.records",
    "RemoteSpec": "cai.models.remote.spec",
    "Revision": "cai.records",
    "judge": "cai.feedback.judge",
    "load_constitution": "cai.constitution.model",
    "load_pipeline": "cai.pipeline.spec",
    "open_remote": "cai.models.remote.model",
    "open_workbench": "cai.models.local.workbench",
    "revise": "cai.feedback.revise",
    "run_pipeline": "cai.pipeline.runner",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cai' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
