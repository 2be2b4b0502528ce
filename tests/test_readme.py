"""What README and guides tell in figures is what the committed results say."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "bench" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_readme_is_that_of_the_committed_results() -> None:
    parts = bench("parts")
    results = json.loads((ROOT / "bench" / "results" / "parts.json").read_text("utf-8"))
    shown = (ROOT / "README.md").read_text("utf-8").partition(parts.START)[2].partition(parts.END)[0]
    assert shown.strip() == parts.readme_table(results)


def test_the_table_of_the_guide_to_speed_is_that_of_the_committed_results() -> None:
    measure = bench("measure")
    shown = measure.GUIDE.read_text("utf-8").partition(measure.START)[2].partition(measure.END)[0]
    assert shown.strip() == measure.table()
