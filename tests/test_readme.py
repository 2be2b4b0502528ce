"""What the README tells in figures is what the committed results say."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_of_the_readme_is_that_of_the_committed_results() -> None:
    spec = importlib.util.spec_from_file_location("parts", ROOT / "bench" / "parts.py")
    assert spec is not None and spec.loader is not None
    parts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parts)
    results = json.loads((ROOT / "bench" / "results" / "parts.json").read_text("utf-8"))
    shown = (ROOT / "README.md").read_text("utf-8").partition(parts.START)[2].partition(parts.END)[0]
    assert shown.strip() == parts.readme_table(results)
