"""How long a person waits for the first word of an answer in `cai chat`: the embedded model in 4 bits, warm.

    python bench/chat.py [--turns 20]

One conversation goes on for some turns; the median time from a question to the first piece of text is compared with
100 ms.
"""

import argparse
import statistics
import time

from measure import compared, report

from cai.models.local.workbench import ModelSpec, open_workbench
from cai.models.protocol import Request, Sampling
from cai.models.tiny.world import prompts
from cai.records import Message

LIMIT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    view = open_workbench(ModelSpec("tiny")).view()
    questions = [prompt.messages[0] for prompt in prompts("test", per_class=options.turns)]
    waits, said = [], 0
    conversation: tuple[Message, ...] = ()
    for turn in range(options.turns + 1):
        # The world's model knows conversations of a few turns; then a new one begins.
        conversation = (*(conversation if turn % 4 else ()), questions[turn])
        start = time.perf_counter()
        pieces = view.stream(Request(conversation, Sampling(max_new_tokens=64), seed=turn))
        text = next(pieces)
        waits.append(time.perf_counter() - start)
        text += "".join(pieces)
        said += len(text)
        conversation = (*conversation, Message("assistant", text))
    median = statistics.median(waits[1:])
    facts = {"first_seconds": waits[0], "median_seconds": median, "slowest_seconds": max(waits[1:]), "letters": said}
    report("chat", [compared("first words per second, against 10", 1 / median, 1 / LIMIT, 1.0)], facts)


if __name__ == "__main__":
    main()
