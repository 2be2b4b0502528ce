"""Seeds and uniforms derived from names, never from a process-wide generator.

A seed depends on what it is for, so work can be skipped, repeated or done in another order and every row still draws
the same numbers.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from cai.records import canonical

Name = TypeVar("Name", str, int)

_MASK = (1 << 64) - 1


def derive(*parts: object) -> int:
    """A 63-bit seed for what the parts name."""
    return int.from_bytes(hashlib.sha256(canonical(parts).encode()).digest()[:8], "big") >> 1


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) at this position of the seed's stream (SplitMix64, Steele et al. 2014, read at random)."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def shuffled(items: Sequence[Name], seed: int) -> list[Name]:
    """The items in an order that depends on the seed and on each item, not on the order they came in."""
    return sorted(items, key=lambda item: (derive(seed, "shuffle", item), item))
