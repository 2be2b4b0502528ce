"""The bench of remote models, on few rows: through an endpoint that fails, a kill, a refused key and two new starts."""

from pathlib import Path

from bench.remote import scenario


def test_every_row_ends_once_and_no_reply_that_was_kept_is_paid_for_again(tmp_path: Path) -> None:
    found = scenario(tmp_path / "faulty", rows=150, share=0.2)
    assert found.replies + found.rejects == 150
    assert (found.missing, found.twice, found.invented) == (0, 0, 0)
    assert found.replies >= 140 and found.failed_calls >= 15
    assert (found.kept_and_paid_twice, found.paid_twice_for_nothing) == (0, 0)
