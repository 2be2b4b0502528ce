"""10,000 rows through an endpoint that fails 20 % of its calls in every way: none lost, none twice, none invented.

    python bench/remote.py [--rows 10000] [--share 0.2] [--work DIR]

A fake endpoint (the one of the tests, in a process of its own) answers by rule, so every reply can be checked. The run
is killed with `kill -9` in the middle and started again, is stopped once by a refused key (401) and started again, and
ends. Counted is what the endpoint really answered: a reply that was written down may never be asked for a second time.
Beside it stands a run without faults, for what the machinery costs. Results go to `bench/results/remote.json`; the last
line is JSON for programs.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cai.errors import CaiError  # noqa: E402
from cai.journal import read_commits, read_lines  # noqa: E402
from cai.models.protocol import Failed, Request, Sampling  # noqa: E402
from cai.models.remote.ledger import STREAM  # noqa: E402
from cai.models.remote.model import open_remote  # noqa: E402
from cai.models.remote.spec import RemoteSpec  # noqa: E402
from cai.pipeline.chunks import Made, chunked, work_in_chunks  # noqa: E402
from cai.pipeline.desk import Desk  # noqa: E402
from cai.records import Message, Reject  # noqa: E402
from cai.seeds import derive, uniform  # noqa: E402
from tests.models.remote.fake_server import PASSING, Asked, Served, running  # noqa: E402

CONCURRENCY, CHUNK = 32, 500
SEED = 5


@dataclass(frozen=True)
class Row:
    id: str


@dataclass(frozen=True)
class Said:
    id: str
    text: str


@dataclass
class Measured:
    """What is known after one scenario."""

    seconds: float = 0.0
    replies: int = 0
    rejects: int = 0
    missing: int = 0
    twice: int = 0
    invented: int = 0
    calls: int = 0
    paid_twice: int = 0
    kept_and_paid_twice: int = 0
    paid_twice_for_nothing: int = 0
    failed_calls: int = 0
    tried_ways: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--share", type=float, default=0.2, help="of the calls that fail")
    parser.add_argument("--work", type=Path, help="keep what is written in this folder")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (asked.work or Path(scratch)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        if asked.serve:
            serve(asked.serve, asked.share, asked.rows)
        elif asked.ask:
            ask(asked.ask, work, asked.rows)
        else:
            compare(work, asked.rows, asked.share)


def compare(work: Path, rows: int, share: float) -> None:
    faulty = scenario(work / "faulty", rows, share)
    healthy = scenario(work / "healthy", rows, 0.0)
    show(faulty, healthy, rows, share)


def scenario(work: Path, rows: int, share: float) -> Measured:
    """One endpoint and one job, from its first start to its end."""
    work.mkdir(parents=True)
    log = work / "calls.jsonl"
    options = ["--rows", str(rows), "--share", str(share)]
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(log), *options], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    url = server.stdout.readline().strip()
    command = [sys.executable, __file__, "--ask", url, "--work", str(work / "job"), *options]
    kept, torn = set[str](), set[str]()
    began = time.monotonic()
    try:
        if share:
            kept = killed(command, log, work / "job", rows // 3)
            # Whoever is killed cannot know of these: they were answered, and not yet written down.
            torn = answered(log).keys() - kept
            refused = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
            assert refused.returncode == 2, (refused.returncode, refused.stderr)
            assert "key refused" in refused.stderr, refused.stderr
            print(f"  stopped: {refused.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        subprocess.run(command, check=True)
        return measured(work / "job", log, kept, torn, rows, time.monotonic() - began)
    finally:
        server.terminate()
        server.communicate()


def killed(command: list[str], log: Path, job: Path, after: int) -> set[str]:
    """Starts the job and kills it once the endpoint has given this many replies; the rows whose replies were kept."""
    process = subprocess.Popen(command)
    while answered(log).total() < after:
        assert process.poll() is None, "the job ended before it was killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = kept_rows(job)
    print(f"  killed with {len(kept)} replies kept", file=sys.stderr)
    return kept


def serve(log: Path, share: float, rows: int) -> None:
    """The endpoint; each whole reply is noted by its row, each fault by its way."""
    barred = f"row {rows * 9 // 10}"

    def plan(asked: Asked, attempt: int) -> str:
        if asked.probes or not share:
            return "ok"
        if asked.words == barred and attempt == 1:
            return note("401")
        drawn = derive("fault", SEED, asked.key)
        if uniform(drawn, 2 * attempt) >= share:
            return "ok"
        return note(PASSING[int(uniform(drawn, 2 * attempt + 1) * len(PASSING))])

    def note(fault: str) -> str:
        os.write(out, (json.dumps({"fault": fault}) + "\n").encode())
        return fault

    def paid(asked: Asked) -> None:
        os.write(out, (json.dumps({"paid": asked.words}) + "\n").encode())

    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with running(Served(plan=plan, note=paid)) as served:
        print(served.url, flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


def ask(url: str, job: Path, rows: int) -> None:
    """The job: a chunked stage whose rows are asked, with what came of them on the disk."""
    spec = RemoteSpec(
        url=url,
        model="small",
        concurrency=CONCURRENCY,
        idle_seconds=1,
        call_seconds=2,
        max_bytes=1024 * 1024,
        patience_seconds=60,
    )
    with open_remote(spec, job / "remote", "fake") as model, Desk(None, {}, job, lambda: False) as desk:

        def work(part: Sequence[Row]) -> Made:
            results = model.generate([requested(row) for row in part])
            both = list(zip(part, results, strict=True))
            said = [Said(row.id, result.text) for row, result in both if not isinstance(result, Failed)]
            lost = [Reject(row.id, "ask", r.reason, r.detail) for row, r in both if isinstance(r, Failed)]
            return Made(len(part), said, lost)

        chunks = chunked("ask", all_rows(rows), CHUNK, work)
        try:
            for event in work_in_chunks("01-ask", chunks, job / "stage", desk):
                print(f"  {event.data['done']} of {rows}", file=sys.stderr, flush=True)
        except CaiError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)


def all_rows(rows: int) -> list[Row]:
    return [Row(f"row {i}") for i in range(rows)]


def requested(row: Row) -> Request:
    return Request((Message("user", row.id),), Sampling(max_new_tokens=64), derive("bench", row.id))


def answered(log: Path) -> Counter[str]:
    """How many whole replies the endpoint gave to each row."""
    lines = [json.loads(line) for line in read_lines(log)] if log.exists() else []
    return Counter(line["paid"] for line in lines if line.get("paid", "").startswith("row "))


def faults(log: Path) -> Counter[str]:
    return Counter(line["fault"] for line in map(json.loads, read_lines(log)) if "fault" in line)


def kept_rows(job: Path) -> set[str]:
    """The rows whose replies a killed job had committed. What stands behind the last commit nobody has used."""
    commits, _ = read_commits(job / "remote")
    committed = (job / "remote" / f"{STREAM}.jsonl").read_bytes()[: commits[-1].ends[STREAM]]
    texts = (json.loads(line)["value"].get("text") for line in committed.splitlines())
    return {text.removeprefix("reply to ") for text in texts if text}


def measured(job: Path, log: Path, kept: set[str], torn: set[str], rows: int, seconds: float) -> Measured:
    said = [json.loads(line) for line in read_lines(job / "stage" / "records.jsonl")]
    lost = [json.loads(line) for line in read_lines(job / "stage" / "rejects.jsonl")]
    paid, failed = answered(log), faults(log)
    ended = Counter(line["id"] for line in (*said, *lost))
    expected = {row.id for row in all_rows(rows)}
    again = {row for row, count in paid.items() if count > 1}
    return Measured(
        seconds=round(seconds, 1),
        replies=len(said),
        rejects=len(lost),
        missing=len(expected - ended.keys()),
        twice=sum(count > 1 for count in ended.values()),
        invented=sum(line["id"] not in expected or line["text"] != f"reply to {line['id']}" for line in said),
        calls=paid.total() + failed.total(),
        paid_twice=len(again),
        kept_and_paid_twice=len(again & kept),
        paid_twice_for_nothing=len(again - torn),
        failed_calls=failed.total(),
        tried_ways=len(failed),
    )


def show(faulty: Measured, healthy: Measured, rows: int, share: float) -> None:
    ways = len(PASSING) + 1
    results = [
        result("accounted for", rows - faulty.missing, rows, faulty.missing == 0),
        result("ended twice", faulty.twice, 0, faulty.twice == 0),
        result("invented", faulty.invented, 0, faulty.invented == 0),
        result("kept, and paid for again", faulty.kept_and_paid_twice, 0, faulty.kept_and_paid_twice == 0),
        result("under way at the kill, and paid for again", faulty.paid_twice, CONCURRENCY,
               faulty.paid_twice <= CONCURRENCY),
        result("paid for again, and not by the kill", faulty.paid_twice_for_nothing, 0,
               faulty.paid_twice_for_nothing == 0),
        result("ways to fail", faulty.tried_ways, ways, faulty.tried_ways == ways),
        result("share of calls that failed", round(faulty.failed_calls / faulty.calls, 3), share,
               abs(faulty.failed_calls / faulty.calls - share) < 0.02),
        result("without faults, paid for again", healthy.paid_twice, 0, healthy.paid_twice == 0),
    ]  # fmt: skip
    for scene, name in ((faulty, f"{share:.0%} of calls fail"), (healthy, "no call fails")):
        print(
            f"{name:24} {scene.seconds:7.1f} s  {rows / scene.seconds:6.0f} rows/s  {scene.calls} calls  "
            f"{scene.replies} replies  {scene.rejects} rejects"
        )
    for each in results:
        print(f"{each['name']:42} {each['ours']:>8}  goal {each['goal']:>8}  {'met' if each['met'] else 'MISSED'}")
    told = {
        "bench": "remote",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "settings": {"rows": rows, "share": share, "concurrency": CONCURRENCY},
        "scenarios": {"faulty": vars(faulty), "healthy": vars(healthy)},
        "results": results,
    }
    target = ROOT / "bench" / "results" / "remote.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"bench": "remote", "results": results}))
    sys.exit(0 if all(each["met"] for each in results) else 1)


def result(name: str, ours: float, goal: float, met: bool) -> dict[str, object]:
    return {"name": name, "ours": ours, "peer": None, "ratio": None, "goal": goal, "met": met, "floor_share": None}


if __name__ == "__main__":
    main()
