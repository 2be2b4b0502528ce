"""Whether a training alone fits in the memory that is free now, from the lengths of its own rows."""

from collections.abc import Sequence

from cai.errors import InputError
from cai.models.local.finding import find_model
from cai.models.local.fitting import nearest, require, setup_here
from cai.models.local.heap import suit_memory
from cai.models.local.machine import free_memory
from cai.models.local.memory import Generating, Method, Training, Work, need
from cai.models.local.shape import shape_of
from cai.models.local.spec import ModelSpec
from cai.pipeline.alone_rows import Encoded
from cai.train.config import TrainConfig


def make_room(place: str, spec: ModelSpec, works: Sequence[Work], *, check: bool) -> None:
    """Refuse a training that does not fit, and go easy on memory where it just fits. What cannot be estimated is let
    through; so is, without `check`, what does not fit."""
    from cai.models.local.loading import pick_device

    where = pick_device(spec.device)
    try:
        shape = shape_of(find_model(spec.base, spec.revision).folder)
    except InputError:
        return
    setup = setup_here(spec, shape, where)
    # Interpreter and libraries, or the context of a GPU, are there already.
    room = free_memory(where) + need(setup).of("before loading")
    wanted = {work: need(setup, work) for work in works}
    if where == "cpu":
        suit_memory(max(each.bytes for each in wanted.values()), room)
    for work, each in wanted.items():
        if check and each.bytes > room:
            require(place, where, each, room, nearest(setup, work, room))


def works_of(config: TrainConfig, rows: Sequence[Encoded], method: Method, *, continued: bool) -> list[Work]:
    """The largest pass with gradients; a policy's answers are generated before."""
    from cai.train.config import PolicyConfig

    longest = max(row.length for row in rows)
    answer = max(len(tokens.completion_ids) for row in rows for tokens in row.tokens)
    sequences_of_row = len(rows[0].tokens)
    at_once = config.batch_size
    found: list[Work] = []
    if isinstance(config, PolicyConfig):
        at_once, answer = config.batch_size * config.samples, config.max_new_tokens
        found = [Generating(min(at_once, 64), longest, answer)]
        longest += answer
    fitting = max(1, config.micro_tokens // (sequences_of_row * longest))
    sequences = min(fitting, at_once) * sequences_of_row
    training = Training(method, sequences, longest, sequences * answer, continued, config.checkpointing)
    return [*found, training]
