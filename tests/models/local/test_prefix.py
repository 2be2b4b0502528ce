"""What is kept of texts: found by their own ids and owner alone, cut anywhere, and forgotten oldest first."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cai.models.local.prefix import BLOCK, MIN_GROUP, MIN_SHARED, Kept, States, alike, common_length

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=80).map(tuple), min_size=1, max_size=8)


def states(ids: tuple[int, ...], before: States | None = None) -> States:
    """Two layers whose entries tell the position they belong to."""
    start = 0 if before is None else len(before.ids)
    at = torch.arange(start, len(ids), dtype=torch.float32)
    return States(ids, [at.view(1, 1, -1, 1).expand(2, 3, -1, 4).contiguous() + 1000 * n for n in range(2)], before)


@given(TEXTS, TEXTS)
def test_the_longest_known_beginning_is_found_whatever_else_is_kept(kept_texts, asked):
    kept = Kept(1 << 30)
    for text in kept_texts:
        kept.keep("base", states(text)) if text else None
    for text in asked:
        best = max((common_length((text, known)) for known in kept_texts), default=0)
        match = kept.longest("base", text)
        if match is None:
            assert best < BLOCK
        else:
            assert match.length == common_length((match.states.ids, text)) >= BLOCK
            assert match.length // BLOCK == best // BLOCK, "no other shares more whole blocks"


def test_a_part_is_the_same_wherever_it_lies():
    shared = states(tuple(range(40)))
    whole, cut = states(tuple(range(70))), states(tuple(range(70)), shared)
    assert (whole.start, cut.start) == (0, 40) and cut.nbytes < whole.nbytes
    for first, last in ((0, 70), (0, 40), (10, 30), (39, 41), (40, 70), (55, 60), (12, 66)):
        for a, b in zip(whole.part(first, last), cut.part(first, last), strict=True):
            assert torch.equal(a, b) and a.shape[2] == last - first


def test_the_least_recently_used_states_go_when_the_budget_is_spent():
    texts = [tuple(range(n, n + 2 * BLOCK)) for n in (0, 100, 200)]
    size = states(texts[0]).nbytes
    kept = Kept(2 * size)
    kept.keep("base", states(texts[0]))
    kept.keep("base", states(texts[1]))
    assert kept.longest("base", texts[0]) is not None
    kept.keep("base", states(texts[2]))
    assert [kept.longest("base", text) is not None for text in texts] == [True, False, True]
    kept.keep("base", states(tuple(range(8 * BLOCK))))
    assert kept.longest("base", tuple(range(8 * BLOCK))).length == 2 * BLOCK, "what alone is too large is not kept"
    kept.clear()
    assert kept.longest("base", texts[2]) is None


def test_what_belongs_to_released_weights_goes_and_nothing_else():
    text, other = tuple(range(2 * BLOCK)), tuple(range(100, 100 + 2 * BLOCK))
    kept = Kept(3 * states(text).nbytes)
    for owner, ids in (("base", text), ("gone", text), ("gone", other)):
        kept.keep(owner, states(ids))
    kept.forget("gone")
    assert kept.longest("gone", text) is None and kept.longest("gone", other) is None
    kept.keep("base", states(other))
    kept.keep("new", states(text))
    assert all(kept.longest(*each) is not None for each in (("base", text), ("base", other), ("new", text)))


def test_texts_that_begin_alike_go_together_and_every_text_goes_once():
    beginning = tuple(range(2 * MIN_SHARED))
    alone = [(500 + n,) * 90 for n in range(MIN_GROUP)]
    texts = [*alone, *((*beginning, n) for n in range(MIN_GROUP)), *((*beginning[::-1], n) for n in range(3))]
    groups = alike(texts)
    assert sorted(n for group in groups for n in group) == list(range(len(texts)))
    assert [len(group) for group in groups] == [MIN_GROUP, MIN_GROUP + 3], "three alike are not worth their own batch"
    assert alike([(*beginning, n) for n in range(3)]) == [[0, 1, 2]]
    assert alike([(1, 2)]) == [[0]] and alike([]) == []
