"""The plan of a training: every row once an epoch, in an order of its own, in passes that fit."""

from hypothesis import given
from hypothesis import strategies as st

from cai.models.local.logprobs import TokenRow
from cai.train.batches import Item, epoch_order, hold_out, plan_batches, split_by_tokens, tokens_digest
from cai.train.config import SftConfig

LENGTHS = [3, 40, 7, 12, 90, 12, 5, 33, 21, 60, 8]
ITEMS = [Item(f"row-{i}", length) for i, length in enumerate(LENGTHS)]


def test_every_epoch_has_every_row_once_and_an_order_of_its_own() -> None:
    batches = plan_batches(SftConfig(epochs=3, batch_size=4, seed=5), ITEMS)
    assert [batch.number for batch in batches] == list(range(1, 10))
    assert [len(batch.rows) for batch in batches] == [4, 4, 3] * 3
    epochs = [[row for batch in batches if batch.epoch == epoch for row in batch.rows] for epoch in range(3)]
    assert all(sorted(rows) == list(range(11)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_follows_ids_and_seed_and_not_the_order_of_the_file() -> None:
    ids = [item.id for item in ITEMS]
    straight = [ids[i] for i in epoch_order(ids, seed=5, epoch=0)]
    reverse = ids[::-1]
    assert [reverse[i] for i in epoch_order(reverse, seed=5, epoch=0)] == straight
    assert [ids[i] for i in epoch_order(ids, seed=6, epoch=0)] != straight


def test_rows_with_one_id_are_all_kept() -> None:
    assert sorted(epoch_order(["same", "same", "other"], seed=0, epoch=0)) == [0, 1, 2]


def test_the_memory_knob_changes_the_passes_and_never_the_updates() -> None:
    wide = plan_batches(SftConfig(batch_size=4, micro_tokens=10_000), ITEMS)
    narrow = plan_batches(SftConfig(batch_size=4, micro_tokens=50), ITEMS)
    assert [len(batch.micros) for batch in wide] == [1] * 6
    assert any(len(batch.micros) > 2 for batch in narrow)
    assert [sorted(b.rows) for b in wide] == [sorted(b.rows) for b in narrow]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(1, 600))
def test_a_pass_holds_no_more_tokens_than_allowed_and_longest_rows_come_first(
    lengths: list[int], micro_tokens: int
) -> None:
    items = [Item(str(i), length) for i, length in enumerate(lengths)]
    micros = split_by_tokens(range(len(items)), items, micro_tokens)
    assert sorted(row for micro in micros for row in micro) == list(range(len(items)))
    for micro in micros:
        assert sum(lengths[row] for row in micro) <= micro_tokens or len(micro) == 1
    in_order = [lengths[row] for micro in micros for row in micro]
    assert in_order == sorted(in_order, reverse=True)


@given(st.integers(2, 60), st.floats(0, 0.99), st.integers(0, 5))
def test_rows_are_held_out_by_their_ids_and_never_all_of_them(count: int, share: float, seed: int) -> None:
    ids = [f"row-{i}" for i in range(count)]
    parts = hold_out(ids, share, seed)
    assert sorted((*parts.trained, *parts.held)) == list(range(count)) and parts.trained
    assert bool(parts.held) == (share > 0)
    backwards = hold_out(ids[::-1], share, seed)
    assert {ids[i] for i in parts.held} == {ids[::-1][i] for i in backwards.held}


def test_the_digest_tells_where_a_prompt_ends_and_which_row_is_which() -> None:
    rows = [("a", TokenRow((1, 2), (3,))), ("b", TokenRow((4,), (5,)))]
    others = [
        [("a", TokenRow((1,), (2, 3))), rows[1]],
        [("a", TokenRow((1, 2), (9,))), rows[1]],
        [("c", rows[0][1]), rows[1]],
        rows[::-1],
        rows[:1],
    ]
    assert tokens_digest(rows) == tokens_digest(list(rows))
    assert tokens_digest(rows) not in {tokens_digest(other) for other in others}
