"""One trainer alone, on rows that somebody brings: from checks before anything is loaded to a finished folder.

What is asked for is an `Order`; rows are `alone_rows`', trainers `alone_methods`'. The folder belongs to one process at
a time and to one training for ever; its manifest is written last.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from cai.errors import InputError
from cai.files import folder_lock
from cai.manifest import Manifest, read_manifest, verify_manifest, write_manifest
from cai.pipeline.alone_end import counts_of, ending, facts_of, write_card
from cai.pipeline.alone_memory import make_room, works_of
from cai.pipeline.alone_methods import METHODS, Work
from cai.pipeline.alone_order import Asked, Order, order_of
from cai.pipeline.alone_rows import STAGE, Encoded, Reading, encoded, read_data
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, Finished
from cai.pipeline.logbook import EVENTS, EventLog
from cai.pipeline.probe import probe_of
from cai.pipeline.reporting import Subject, reported
from cai.pipeline.trained import VERSION, Training, refuse_another, write_training
from cai.pipeline.training import told, written
from cai.records import Reject
from cai.seeds import derive

__all__ = ["METHODS", "Asked", "Order", "order_of", "train_alone"]


@dataclass(frozen=True, slots=True)
class Used:
    """A row that was trained on, where it stood, and how sure its label was."""

    id: str
    place: str
    p: float


def train_alone(order: Order, stop: Callable[[], bool], *, check_memory: bool = True) -> Iterator[Event]:
    """Train, or go on with a training that was stopped; one that is done is told and left as it is.

    `stop` is asked between updates and makes this raise `Interrupted`. The last event, `run_finished`, says what came
    of it.
    """
    reading = read_data(order.data, order.layout, order.name, order.method.wants)
    desk = Desk(order.spec, {}, order.out, stop, check_memory=check_memory)
    training = _training(order, reading, desk.fingerprint())
    refuse_another(order.out, training)
    if read_manifest(order.out) is not None:
        yield from _done_already(order, verify_manifest(order.out))
        return
    rows = _encoded(order, reading)
    _require_enough(order, len(rows))
    scorers = sum(reward.adapter is not None for reward in order.rewards)
    works = works_of(order.config, rows, order.method.memory, continued=order.start is not None, scorers=scorers)
    make_room(str(order.data), order.spec, works, check=check_memory)
    resumed = order.out.exists()
    with folder_lock(order.out), desk:
        write_training(order.out, training)
        ledger = _ledger(order, reading, rows)
        with EventLog(order.out / EVENTS) as log:
            events = _events(order, ledger, rows, desk, resumed=resumed)
            if order.report_to:
                subject = Subject(order.out.resolve().name, training.digest, order.config.model_dump(mode="json"))
                events = reported(events, order.report_to, order.out, subject)
            for event in events:
                log.note(event)
                yield event
            facts = facts_of(order, ledger, desk.facts or {})
            write_card(order, ledger, facts, reading.sha256)
            finished = ending(order, counts_of(ledger), facts)
            log.note(finished)
        sources = {"data": reading.sha256}
        write_manifest(order.out, f"{STAGE}-{order.name}", VERSION, training.digest, sources, counts_of(ledger), facts)
        yield finished


def _training(order: Order, reading: Reading, base: str) -> Training:
    """What this training is, every setting and every input by name."""
    local = order.spec.base != "tiny" and order.spec.revision is None
    shape = {} if order.start else {f"lora.{name}": value for name, value in asdict(order.spec.lora).items()}
    identity = {
        "method": order.name,
        "data": reading.sha256,
        "base": base,
        **order.spec.own_precision,
        "layout": reading.layout,
        "from": order.start.digest if order.start else None,
        "max_tokens": order.max_tokens,
        **{f"reward {reward.name}": [reward.digest, reward.weight] for reward in order.rewards},
        **{name: list(value) if isinstance(value, tuple) else value for name, value in shape.items()},
        **order.config.model_dump(mode="json"),
    }
    return Training(
        order.name,
        order.spec,
        order.asked_revision,
        str(Path(order.spec.base).expanduser().resolve()) if local else "",
        order.data.name,
        identity,
        {"cai": version("cai")},
    )


def _encoded(order: Order, reading: Reading) -> list[Encoded]:
    """The rows as tokens; the model's tokenizer is loaded for it, and none of its weights."""
    from cai.models.local.finding import find_model
    from cai.models.local.loading import load_chat

    chat = load_chat(order.spec, find_model(order.spec.base, order.spec.revision))
    return encoded(reading, chat, order.max_tokens, order.method.reply(order.config))


def _require_enough(order: Order, rows: int) -> None:
    held = min(max(1, round(order.config.holdout * rows)), rows - 1) if order.config.holdout else 0
    fewest, place = order.method.fewest, str(order.data)
    if rows - held < fewest:
        problem = f"{order.name} needs {fewest} rows or more to train on"
        raise InputError(place, problem, rows - held, "bring more rows, or hold fewer out")
    if 0 < held < fewest:
        problem = f"{order.name} needs {fewest} rows or more to measure on"
        raise InputError(place, problem, held, "set holdout higher, or to 0")


def _events(
    order: Order, ledger: Finished, rows: list[Encoded], desk: Desk, *, resumed: bool
) -> Generator[Event, None, None]:
    """Everything but the end."""
    yield _started(order)
    yield Event("stage_started", order.name, {"folder": str(order.out), "resumed": resumed})
    probe = None
    if order.config.probe_every and order.method.speaks:
        probe = probe_of([row.candidate.prompt for row in rows], derive(order.config.seed, "probe"))
    start = order.start.folder if order.start else None
    work = Work(order.config, rows, desk.workbench(), start, order.out, desk.stop, probe, order.rewards)
    yield from told(order.name, order.method.train(work))
    told_of: dict[str, object] = {"counts": counts_of(ledger), "rejects": ledger.rejects, "notes": ledger.notes}
    yield Event("stage_finished", order.name, told_of)


def _ledger(order: Order, reading: Reading, rows: list[Encoded]) -> Finished:
    """Rows used and rejected, as files; every input is in one of the two."""
    used = [Used(row.candidate.id, row.candidate.place, row.candidate.p) for row in rows]
    rejects = [Reject(each.id, order.name, each.reason, each.detail) for each in reading.rejects]
    notes = {"rows in the data": reading.rows} if reading.rows != reading.inputs else {}
    return written(order.name, order.out, reading.inputs, used, rejects, notes)


def _started(order: Order) -> Event:
    name = f"{order.name} on {order.data.name}"
    told_of: dict[str, object] = {
        "name": name,
        "folder": str(order.out),
        "stages": [order.name],
        "command": order.command,
    }
    return Event("run_started", "", told_of)


def _done_already(order: Order, manifest: Manifest) -> Iterator[Event]:
    facts = manifest.facts
    yield _started(order)
    told_of = {"counts": dict(manifest.counts), "rejects": facts["rejects"], "notes": facts["notes"]}
    yield Event("stage_skipped", order.name, told_of)
    yield ending(order, manifest.counts, facts)
