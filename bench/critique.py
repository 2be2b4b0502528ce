"""Answer, critique, revision behind a long few-shot text, against the open recipe's way of sending all of it again.

    python bench/critique.py [--repeats 5] [--model embedded]

64 prompts of 20 to 60 random tokens on a random Llama of 13 M parameters, or on the embedded model, greedy, 24 tokens a
turn. All of them begin with the same 1,500 tokens. The peer is transformers' `generate` on the full text of each turn,
in its best batch width of 32 and 64; ours computes the 1,500 tokens once and goes on from each turn's own keys and
values.
"""

from collections.abc import Callable, Sequence
from functools import partial

from measure import compared, median_seconds, report
from models import Ids, generated, named, network_of, opened, options, texts
from transformers import LlamaForCausalLM

from cai.models.local.decode import DecodeRow, Memory, decode
from cai.models.local.network import Network
from cai.models.local.prefix import Kept
from cai.models.protocol import Sampling

SHARED, TURN = 1500, 24
Answering = Callable[[list[Ids], Memory], list[Ids]]
GREEDY = Sampling(temperature=0, max_new_tokens=TURN)


def main() -> None:
    given = options(__doc__, rows=64).parse_args()
    model = opened(given.model)
    network = network_of(model)
    few_shot, critiques, revisions = (
        texts(model, n, k, k, seed=s) for n, k, s in ((1, SHARED, 4), (4, 40, 5), (4, 30, 6))
    )
    asked = texts(model, given.rows, 20, 60, seed=7)
    answering: dict[str, Answering] = {"ours": partial(ours, network)}
    answering |= {f"generate at {width}": partial(without_memory, model, width) for width in (32, 64)}
    ways = {
        name: partial(conversation(answer, few_shot[0], critiques, revisions), asked)
        for name, answer in answering.items()
    }
    same = sum(a == b for a, b in zip(ways["ours"](), ways["generate at 32"](), strict=True))
    print(f"{same} of {len(asked)} conversations are the same to the last token", flush=True)
    peers = [name for name in ways if name != "ours"]
    seconds = median_seconds(ways, given.repeats, peers)
    best = min(peers, key=lambda name: seconds[name])
    rows = len(asked)
    result = compared(f"rows/s against {best}", rows / seconds["ours"], rows / seconds[best], 12.0)
    facts = {"seconds": seconds, "agreeing": same, "rows": rows, "shared_tokens": SHARED}
    report(named("critique", given.model), [result], facts)


def conversation(
    answer: Answering, few_shot: Ids, critiques: Sequence[Ids], revisions: Sequence[Ids]
) -> Callable[[Sequence[Ids]], list[list[Ids]]]:
    """Three turns of each prompt, with whatever answers."""

    def run(asked: Sequence[Ids]) -> list[list[Ids]]:
        memory = Memory(Kept(1 << 29), "base")
        prompts = [(*few_shot, *prompt) for prompt in asked]
        said: list[list[Ids]] = [[] for _ in prompts]
        for turn in range(3):
            replies = answer(prompts, memory)
            for n, reply in enumerate(replies):
                said[n].append(reply)
                after = (critiques, revisions, ((),))[turn]
                prompts[n] = (*prompts[n], *reply, *after[n % len(after)])
        return said

    return run


def without_memory(model: LlamaForCausalLM, width: int, prompts: list[Ids], _memory: Memory) -> list[Ids]:
    return generated(model, prompts, width, TURN)


def ours(network: Network, prompts: Sequence[Ids], memory: Memory) -> list[Ids]:
    rows = [DecodeRow(prompt, GREEDY, 0) for prompt in prompts]
    return [decoded.ids for decoded in decode(network, rows, lambda *_: False, memory)]


if __name__ == "__main__":
    main()
