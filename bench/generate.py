"""Generating answers: our step loop against transformers' `generate`, greedy, the same tokens.

    python bench/generate.py [--repeats 5] [--model embedded]

256 prompts of 20 to 300 random tokens on a random Llama of 13 M parameters, or on the embedded model. Answers end at
any of a fixed random set of ids, so many that an answer has about 48 tokens; 128 at most. The peer is the faster of
`generate`, which gets its prompts sorted by length, and `generate_batch`, each in its best width of 32, 64 and 128. The
floor is what bare forward passes over the same tokens take at full width. Twice the rows are as many prompts again
beside the first, with stops of their own, so that their answers are as long.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from measure import compared, median_seconds, report
from memory import status
from models import Ids, ModelName, batched, generated, named, network_of, opened, options, texts

from cai.models.local.attention import Pass, Slots
from cai.models.local.decode import MAX_ROWS, DecodeRow, decode
from cai.models.local.network import Network
from cai.models.protocol import Sampling

LONGEST, MEAN, SHORTEST = 128, 48, 0.98
WIDTHS = (32, 64, 128)
GREEDY = Sampling(temperature=0, max_new_tokens=LONGEST)


def main() -> None:
    parser = options(__doc__, rows=256)
    parser.add_argument("--peak", action="store_true", help="only generate, and print the peak memory in MB")
    asked = parser.parse_args()
    model = opened(asked.model)
    network = network_of(model)
    prompts = texts(model, asked.rows, 20, 300, seed=1)
    if asked.peak:
        decode_all(network, prompts)
        return
    others = texts(model, asked.rows, 20, 300, seed=2)
    stops, other_stops = natural_stops(network, prompts), natural_stops(network, others)

    def ours(given: Sequence[Ids]) -> list[Ids]:
        rows = [DecodeRow(prompt, GREEDY, 0) for prompt in given]
        ending = [stops] * len(prompts) + [other_stops] * len(others)
        return [decoded.ids for decoded in decode(network, rows, lambda row, ids: ids[-1] in ending[row])]

    answers = ours(prompts)
    tokens = sum(map(len, answers))
    agreeing = sum(a == b for a, b in zip(answers, generated(model, prompts, 64, LONGEST, stops), strict=True))
    print(f"{tokens} tokens in {len(prompts)} answers; {agreeing} of them are the same to the last token", flush=True)
    floors = list[float]()
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(prompts),
        "twice": lambda: ours([*prompts, *others]),
        "floor": lambda: floors.append(floor_seconds(network, prompts, tokens)),
    }
    other = opened(asked.model)
    peers = {f"generate at {w}": partial(generated, model, prompts, w, LONGEST, stops) for w in WIDTHS}
    peers |= {f"generate_batch at {w}": partial(batched, other, prompts, w, LONGEST, stops) for w in WIDTHS}
    seconds = median_seconds(ways | peers, asked.repeats, list(peers))
    seconds["floor"] = statistics.median(floors)
    best = min(peers, key=lambda name: seconds[name])
    rate, share = tokens / seconds["ours"], seconds["floor"] / seconds["ours"]
    results = [
        compared(f"tokens/s against {best}", rate, tokens / seconds[best], 2.0, round(share, 3)),
        compared("twice the rows: twice the time over the time", 2 * seconds["ours"], seconds["twice"], 2 / 2.1),
        compared("twice the rows: peak memory over peak memory", *peaks(asked.model, asked.rows), 0.95),
    ]
    facts = {"seconds": seconds, "tokens": tokens, "agreeing": agreeing, "rows": len(prompts)}
    report(named("generate", asked.model), results, facts)


def decode_all(network: Network, prompts: Sequence[Ids]) -> None:
    decode(network, [DecodeRow(prompt, GREEDY, 0) for prompt in prompts], lambda _, ids: len(ids) >= MEAN)
    print(status("VmHWM") / 1e6)


def peaks(model: ModelName, rows: int) -> tuple[float, float]:
    """The peaks of processes that generate this many answers, and twice as many, in MB."""
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", "--model", model, "--rows"]
    done = [subprocess.run([*command, str(n)], capture_output=True, text=True, check=True) for n in (rows, 2 * rows)]
    once, twice = (float(each.stdout.splitlines()[-1]) for each in done)
    return once, twice


def natural_stops(network: Network, prompts: Sequence[Ids]) -> frozenset[int]:
    """As many random ids as make the mean answer 48 tokens long; none that alone would make it much shorter."""
    free = [d.ids for d in decode(network, [DecodeRow(p, GREEDY, 0) for p in prompts], lambda *_: False)]
    said = sorted({token for answer in free for token in answer})
    order = torch.randperm(len(said), generator=torch.Generator().manual_seed(3)).tolist()
    first_use = [{token: k for k, token in reversed(list(enumerate(answer, 1)))} for answer in free]
    lengths, stops = [LONGEST] * len(free), set()
    for number in order:
        if sum(lengths) <= MEAN * len(free):
            break
        shorter = [min(n, uses.get(said[number], n)) for n, uses in zip(lengths, first_use, strict=True)]
        if sum(shorter) >= SHORTEST * MEAN * len(free):
            stops.add(said[number])
            lengths = shorter
    return frozenset(stops)


def floor_seconds(network: Network, prompts: Sequence[Ids], tokens: int) -> float:
    """Forward passes alone: every prompt once in batches of like length, and steps at full width for the rest."""
    ordered = sorted(prompts, key=len, reverse=True)
    columns = sum(map(len, prompts)) // len(prompts) + MEAN // 2
    with torch.inference_mode():
        start = time.perf_counter()
        for first in range(0, len(ordered), 16):
            batch = ordered[first : first + 16]
            width = max(map(len, batch))
            at = torch.arange(width)[None]
            network.pass_over(torch.ones(len(batch), width, dtype=torch.long), at, Pass(at))
        prefill = time.perf_counter() - start
        slots, steps = Slots(MAX_ROWS), 20
        slots.reserve(columns + steps)
        at = torch.arange(columns)[None]
        run = Pass(at, slots=slots, columns=columns, fresh=True)
        network.pass_over(torch.ones(MAX_ROWS, columns, dtype=torch.long), at, run)
        ids = torch.ones(MAX_ROWS, 1, dtype=torch.long)
        start = time.perf_counter()
        for step in range(steps):
            at = torch.full((MAX_ROWS, 1), columns + step)
            run = Pass(at, slots=slots, columns=columns + step + 1, start=columns + step)
            network.logits(network.pass_over(ids, at, run)[:, -1])
        step_seconds = (time.perf_counter() - start) / steps
    return prefill + step_seconds * tokens / MAX_ROWS


if __name__ == "__main__":
    main()
