"""The prompt sets that come with the embedded world. Those in files are read by `store.formats.prompts`."""

from itertools import chain, islice, zip_longest

from cai.models.tiny import world
from cai.records import Prompt

EMBEDDED = tuple(f"tiny/{split}" for split in world.SPLITS)


def embedded_prompts(name: str, limit: int | None) -> list[Prompt]:
    """One of the embedded world's sets. The sample is the same whatever the run's seed, so that runs compare."""
    split = name.removeprefix("tiny/")
    if limit is None:
        return world.prompts(split)
    per_class = -(-limit // len(world.CLASSES))
    found = world.prompts(split, per_class)
    by_class = [[p for p in found if p.source.endswith(f"/{label}")] for label in world.CLASSES]
    in_turn = (p for p in chain.from_iterable(zip_longest(*by_class)) if p is not None)
    return list(islice(in_turn, limit))
