"""200,000 generated pairs of 200 words through filters, figures and a Parquet export: time and memory at three sizes.

    python -m bench.data [--sizes 50000,100000,200000]

Each size runs in a process of its own, so that its peak of memory is its own. The rows are made beforehand.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "data.json"
SIZES = (50_000, 100_000, 200_000)
MAX_SECONDS, MAX_BYTES = 180.0, 1_000_000_000
_WORDS, _NEAR = 4_000, 0.05


def make_rows(path: Path, n: int) -> None:
    """Pairs of 200 words in all, every twentieth nearly the same as one before."""
    from cai.records import Lineage, Preference, Verdict, new_prompt, to_line

    rng = random.Random(17)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er", "il", "on", "us")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(_WORDS)]
    small = "the a of and to in is that it was for on with as are this not but they from".split()  # noqa: SIM905
    lineage = Lineage("c" * 64, "f" * 64, 17, "answerer", "critic", "judge", "log-probabilities")
    before: list[list[str]] = []
    with open(path, "w", encoding="utf-8") as handle:
        for number in range(n):
            if before and rng.random() < _NEAR:
                said = list(rng.choice(before))
                said[rng.randrange(len(said))] = rng.choice(words)
            else:
                said = [rng.choice(small) if rng.random() < 0.45 else rng.choice(words) for _ in range(200)]
                before.append(said)
                before = before[-500:]
            p = 0.6 + 0.4 * rng.random()
            row = Preference(
                new_prompt(_sentences(said[:40])),
                _sentences(said[40:120]),
                _sentences(said[120:]),
                p,
                (Verdict("no-harm", p, p - 0.05),),
                "preferred",
                lineage,
                f"samples:{number}",
            )
            handle.write(to_line(row) + "\n")


def _sentences(words: list[str]) -> str:
    return " ".join(f"{' '.join(words[i : i + 12]).capitalize()}." for i in range(0, len(words), 12))


def work(source: Path, out: Path) -> dict[str, object]:
    """What one process does. The classifier of poor text looks at every row by itself: it would take all of this
    nonsense out, and the other filters would have nothing to do."""
    from cai.feedback.filters.folder import filter_into, only_rows
    from cai.feedback.filters.quality import poor_text
    from cai.feedback.filters.settings import FilterSettings
    from cai.store.data_stats import stats_of
    from cai.store.dataset import open_data
    from cai.store.formats.exporting import ExportSettings, export

    seconds: dict[str, float] = {}
    begin = time.monotonic()
    report = filter_into(open_data(source), out / "filtered", FilterSettings(poor_text=False))
    seconds["filter"] = time.monotonic() - begin
    look, judged, seconds["classifier"] = poor_text(), 0, 0.0
    for row in only_rows(open_data(source).rows()):
        begin = time.monotonic()
        judged += look(row) is not None
        seconds["classifier"] += time.monotonic() - begin
    assert judged > report.inputs / 2, "the classifier did not look at the rows"
    filtered = open_data(out / "filtered")
    begin = time.monotonic()
    stats = stats_of(filtered.rows())
    seconds["stats"] = time.monotonic() - begin
    begin = time.monotonic()
    done = export(filtered, out / "parquet", ExportSettings("parquet"))
    seconds["export"] = time.monotonic() - begin
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak, cpu = used.ru_maxrss * 1024, used.ru_utime + used.ru_stime
    assert stats.rows == done.outputs == report.outputs, (stats.rows, done.outputs, report.outputs)
    return {
        "rows": report.inputs,
        "kept": report.outputs,
        "rejects": report.rejects,
        "seconds": seconds,
        "cpu": cpu,
        "peak": peak,
    }


def measure(size: int, folder: Path) -> dict[str, object]:
    source, out = folder / f"{size}.jsonl", folder / f"out-{size}"
    make_rows(source, size)
    command = [sys.executable, "-m", "bench.data", "--work", str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    source.unlink()
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--work", nargs=2, metavar=("SOURCE", "OUT"))
    given = parser.parse_args()
    if given.work:
        source, out = map(Path, given.work)
        out.mkdir()
        print(json.dumps(work(source, out)))
        return
    head = ("rows", "kept", "filter s", "poor s", "stats s", "export s", "all s", "CPU s")
    print(" ".join(f"{name:>9}" for name in head), f"{'MB':>7}")
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, given.sizes.split(",")):
            found = measure(size, Path(folder))
            seconds = found["seconds"]
            assert isinstance(seconds, dict), found
            total, peak = sum(seconds.values()), found["peak"]
            assert isinstance(peak, int), found
            times = " ".join(f"{value:9.1f}" for value in (*seconds.values(), total))
            print(f"{found['rows']:>9} {found['kept']:>9} {times} {found['cpu']:9.1f} {peak / 1e6:7.0f}", flush=True)
            measured.append({**found, "total": total})
    results = results_of(measured)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"bench": "data", "measured": measured, "results": results}, indent=2) + "\n")
    print(json.dumps({"bench": "data", "results": results}))


def results_of(measured: list[dict[str, object]]) -> list[dict[str, object]]:
    """Against the limits, and growth: time for each row at the largest size over that at the smallest."""
    first, last = measured[0], measured[-1]
    rows = [float(str(each["rows"])) for each in (first, last)]
    # Processor time tells how the work grows, also where something else is running; the limit is on the clock.
    totals, peaks = [float(str(e["cpu"])) for e in (first, last)], [float(str(e["peak"])) for e in (first, last)]
    each = (peaks[1] - peaks[0]) / max(rows[1] - rows[0], 1)
    growth = totals[1] / rows[1] / (totals[0] / rows[0])
    return [
        _result("seconds", float(str(last["total"])), MAX_SECONDS),
        _result("peak bytes", peaks[1], MAX_BYTES),
        _result("time a row, largest over smallest", growth, 1.25),
        _result("bytes a row that memory grows by", each, 4_000),
    ]


def _result(name: str, ours: float, goal: float) -> dict[str, object]:
    met, ratio = ours <= goal, round(ours / goal, 3)
    return {
        "name": name,
        "ours": round(ours, 3),
        "peer": None,
        "ratio": ratio,
        "goal": goal,
        "met": met,
        "floor_share": None,
    }


if __name__ == "__main__":
    main()
