"""Reading a file that grows: every whole line once, whatever pieces it is written in."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cai.service.events import Tail


def test_a_line_counts_once_its_end_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text('{"a"')
    assert tail.read() == []
    path.write_text('{"a": 1}\n{"b"')
    assert tail.read() == [(1, '{"a": 1}')]
    path.write_text('{"a": 1}\n{"b": 2}\n')
    assert tail.read() == [(2, '{"b": 2}')]
    assert tail.read() == []


def test_reading_goes_on_behind_any_line(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_text("one\ntwo\nthree\n")
    assert Tail(path, 2).read() == [(3, "three")]
    assert Tail(path, 9).read() == []


@given(st.lists(st.text("abé☃ {}", max_size=5), max_size=8), st.lists(st.integers(0, 60), max_size=6))
def test_lines_do_not_depend_on_the_pieces_they_came_in(lines: list[str], cuts: list[int]) -> None:
    import tempfile

    data = "".join(f"{line}\n" for line in lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        tail, found = Tail(path), []
        for cut in [*sorted(cuts), len(data)]:
            path.write_bytes(data[:cut])
            found += tail.read()
    assert found == list(enumerate(lines, 1))
