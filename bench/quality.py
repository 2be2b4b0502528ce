"""The classifier of poor text: unseen kinds that it knows, and real text that it takes for poor.

    python -m bench.quality [--real FOLDER]

The unseen kinds are those of `tests/feedback/filters/unseen.py`, built on paragraphs that no weights were made from
where FOLDER has wikitext2, else on the project's own. FOLDER holds public data sets; what is missing is left out.
The last line is JSON for programs, and also goes to `bench/results/quality.json`.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cai.feedback.filters.quality import THRESHOLD, quality_of
from cai.feedback.filters.quality_make import PROSE
from cai.records import Preference
from cai.store.formats.importing import read_rows
from cai.store.formats.rows import Answered
from tests.feedback.filters.unseen import FRESH, UNSEEN, texts_of

RESULTS = Path(__file__).parent / "results" / "quality.json"
BAR, EACH = 0.95, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=None)
    given = parser.parse_args()
    prose = paragraphs(given.real)
    kinds = {}
    print(f"{'class':12} {'unseen kind':28} {'known':>7} {'removed':>8}")
    for name, own in UNSEEN.items():
        for kind in (*own, *FRESH[name]):
            kinds[kind] = share_known(texts_of(kind, prose, EACH))
            print(f"{name:12} {kind:28} {kinds[kind]['known']:7.1%} {kinds[kind]['removed']:8.1%}")
    classes = {name: sum(kinds[kind]["known"] for kind in own) / len(own) for name, own in UNSEEN.items()}
    print("\n".join(f"{name:12} {'all':28} {share:7.1%}" for name, share in classes.items()))
    real = {}
    for name, texts in real_texts(given.real) if given.real else ():
        real[name] = share_known(texts)
        print(f"{name:41} {real[name]['known']:7.1%} {real[name]['removed']:8.1%} of {len(texts)}")
    results = [
        *({"name": f"unseen {name} known", "value": share, "limit": BAR} for name, share in classes.items()),
        {"name": "microseconds for a text", "value": microseconds(prose)},
    ]
    found = {"bench": "quality", "kinds": kinds, "classes": classes, "real": real, "results": results}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({"bench": "quality", "results": results}))


def share_known(texts: Sequence[str]) -> dict[str, float]:
    """Known is more likely poor than not; removed is what the filter takes out."""
    found = [quality_of(text) for text in texts]
    poor = [each.p_poor for each in found if each.judged]
    return {
        "known": sum(p > 0.5 for p in poor) / len(texts),
        "removed": sum(p >= THRESHOLD for p in poor) / len(texts),
    }


def microseconds(prose: Sequence[str]) -> float:
    """Processor time for one text of 80 words."""
    texts = [" ".join(text.split()[:80]) for text in prose[:200]]
    begin = time.process_time()
    for text in texts:
        quality_of(text)
    return round((time.process_time() - begin) / len(texts) * 1e6)


def paragraphs(real: Path | None) -> list[str]:
    path = real / "wikitext2" / "valid.txt" if real else None
    if path is None or not path.exists():
        path = PROSE
    # Tokenised text has spaces before its points; nobody writes so.
    lines = (line.strip().replace(" ,", ",").replace(" .", ".") for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if len(line.split()) > 40 and "<unk>" not in line][:400]


def real_texts(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Text of people and of models that nobody would call spam; some of it is poor all the same."""
    for name in ("hh_rlhf/harmless_test.jsonl.gz", "llama_factory_demos/dpo_en_demo.json",
                 "llama_factory_demos/kto_en_demo.json", "llama_factory_demos/alpaca_en_demo.json"):  # fmt: skip
        if (folder / name).exists():
            rows = list(read_rows(folder / name))
            pairs = [text for row in rows if isinstance(row, Preference) for text in (row.chosen, row.rejected)]
            yield name, pairs + [row.completion for row in rows if isinstance(row, Answered)]
    for path in sorted((folder / "xstest").glob("*completions*.csv")):
        with open(path, encoding="utf-8", newline="") as handle:
            yield path.name, [row["completion"] for row in csv.DictReader(handle)]
    for path in sorted((folder / "constitutional_harmlessness" / "samples").glob("*.jsonl")):
        samples = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        said = [each["sampled_string"] for row in samples for each in row.get("sampled_answers", [])]
        yield path.name, said + [each["revision"]["sample"] for row in samples for each in row.get("cst", [])]
    for path in sorted((folder / "llmbar").glob("*.json")):
        rows = json.loads(path.read_text("utf-8"))
        yield path.name, [row[key] for row in rows for key in ("output_1", "output_2")]
    if (folder / "wikitext2").exists():
        yield "wikitext2 paragraphs", paragraphs(folder)


if __name__ == "__main__":
    main()
