"""Seeds depend on what they are for, and their uniforms are uniform."""

from hypothesis import given
from hypothesis import strategies as st

from cai.seeds import derive, shuffled, uniform


def test_a_seed_is_the_same_in_every_process() -> None:
    # By hand: the first 8 bytes of printf '["row",17]' | sha256sum, halved.
    assert derive("row", 17) == 0xD61D0A22052F2A03 // 2


def test_each_part_matters() -> None:
    assert len({derive("row", 17), derive("row", 18), derive("rows", 17), derive("row", "17"), derive(17, "row")}) == 5


@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 10**6))
def test_a_uniform_lies_in_the_half_open_unit_interval(seed: int, position: int) -> None:
    assert 0.0 <= uniform(seed, position) < 1.0


def test_a_uniform_matches_the_published_generator() -> None:
    # SplitMix64's published first outputs for seed 1234567, of which 53 bits are kept.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [uniform(1234567, i) for i in range(3)] == [(word >> 11) / 2**53 for word in published]


def test_uniforms_fill_ten_bins_evenly() -> None:
    counts = [0] * 10
    for position in range(10_000):
        counts[int(uniform(7, position) * 10)] += 1
    # 1,000 expected in each, standard deviation 30: five of them either way.
    assert all(850 < count < 1150 for count in counts)


@given(items=st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=4), unique=True, max_size=20))
def test_a_shuffle_keeps_the_items_and_forgets_their_order(items: list[str]) -> None:
    mixed = shuffled(items, 3)
    assert sorted(mixed) == sorted(items)
    assert mixed == shuffled(items[::-1], 3)


def test_an_added_item_leaves_the_others_in_their_order() -> None:
    items = [f"row {i}" for i in range(50)]
    before, after = shuffled(items, 3), shuffled([*items, "new"], 3)
    assert [item for item in after if item != "new"] == before
    assert before not in (items, shuffled(items, 4))
