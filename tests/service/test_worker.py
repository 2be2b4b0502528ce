"""The worker's ends of the pipe: what is said arrives as it was said, and stops are heard while it works."""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from cai.models.protocol import Sampling
from cai.records import Message
from cai.service import messages as said
from cai.service.messages import read_news, read_order, to_wire
from cai.service.worker import Inbox, Worker

CHAT = said.ChatOrder(7, "", (Message("user", "hé\n☃"),), Sampling(0.5, 0.9, 8, ("\n",)), (1, 2), stream=True)
RUN = said.RunOrder(3, 2, "a", "absent.yaml", "out")


@pytest.mark.parametrize("order", [RUN, CHAT, said.StopOrder(3), said.ForgetOrder(7)])
def test_orders_arrive_as_they_were_given(order: said.Order) -> None:
    line = to_wire(order)
    assert line.count(b"\n") == 1
    assert read_order(line) == order


@pytest.mark.parametrize(
    "news",
    [
        said.Ready(),
        said.RunEnded(3, 2, "failed", "why"),
        said.ChatBegun(7),
        said.Piece(7, 0, "\n"),
        said.ChoiceEnded(7, 1, "stop", 5, 6, ""),
        said.ChatEnded(7),
        said.ChatRefused(7, "busy", "later"),
    ],
)
def test_news_arrive_as_they_were_told(news: said.News) -> None:
    assert read_news(to_wire(news)) == news


@contextlib.contextmanager
def listening() -> Iterator[tuple[Inbox, BinaryIO]]:
    """An inbox, and the end of the pipe that orders are written to."""
    theirs, ours = os.pipe()
    with open(theirs, "rb") as source, open(ours, "wb", buffering=0) as target:
        ended = threading.Event()
        box = Inbox(source, ended.set)
        thread = threading.Thread(target=box.listen)
        thread.start()
        yield box, target
        target.close()
        assert ended.wait(30)
        thread.join(30)
        assert box.gone


def send(target: BinaryIO, *orders: said.Order) -> None:
    target.writelines(to_wire(order) for order in orders)


def test_a_stop_and_a_forgotten_conversation_are_heard_at_once() -> None:
    with listening() as (box, target):
        send(target, RUN, CHAT, said.StopOrder(RUN.job), said.ForgetOrder(CHAT.id))
        assert box.next() == RUN
        assert box.next() == CHAT
        end = time.monotonic() + 30
        while not (box.is_stopped(RUN) and box.is_forgotten(CHAT)):
            assert time.monotonic() < end
            time.sleep(0.01)
        assert not box.is_stopped(said.RunOrder(4, 1, "b", "", ""))
        box.settled(CHAT)
        assert not box.is_forgotten(CHAT)
    assert box.is_stopped(said.RunOrder(4, 1, "b", "", "")), "with the service gone, everything is to stop"
    assert box.next() is None


def test_conversations_that_wait_beside_a_run_are_handed_out_together() -> None:
    with listening() as (box, target):
        send(target, CHAT, CHAT)
        found: list[said.ChatOrder] = []
        end = time.monotonic() + 30
        while len(found) < 2:
            assert time.monotonic() < end
            found += box.waiting_chats()
        assert found == [CHAT, CHAT]
        assert box.waiting_chats() == []


def test_a_run_that_fails_is_told_and_the_next_order_is_taken(tmp_path: Path) -> None:
    heard: queue.Queue[said.News] = queue.Queue()
    with listening() as (box, target):
        worker = threading.Thread(target=Worker(box, heard.put).work)
        worker.start()
        send(target, RUN, said.RunOrder(4, 1, "b", str(tmp_path), "out"))
        ready, first, second = (heard.get(timeout=60) for _ in range(3))
    worker.join(30)
    assert not worker.is_alive()
    assert ready == said.Ready()
    assert isinstance(first, said.RunEnded)
    assert (first.job, first.token, first.state) == (3, 2, "failed")
    assert "absent.yaml: there is no such file" in first.error
    assert isinstance(second, said.RunEnded)
    assert (second.job, second.state) == (4, "failed")
