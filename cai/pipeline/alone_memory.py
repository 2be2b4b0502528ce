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
from cai.models.local.width import width_in
from cai.pipeline.alone_rows import Encoded
from cai.train.config import PolicyConfig, TrainConfig


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
    width = width_in(setup, room)
    wanted = {work: need(setup, work) for work in map(width.of, works)}
    if where == "cpu":
        suit_memory(max(each.bytes for each in wanted.values()), room)
    for work, each in wanted.items():
        if check and each.bytes > room:
            require(place, where, each, room, nearest(setup, work, room))


def works_of(
    config: TrainConfig, rows: Sequence[Encoded], method: Method, *, continued: bool, scorers: int = 0
) -> list[Work]:
    """The largest pass with gradients; a policy's answers are generated before, beside all that is trained."""
    longest = max(row.length for row in rows)
    if isinstance(config, PolicyConfig):
        training = policy_training(config, longest, continued=continued, scorers=scorers)
        answers = min(config.batch_size, len(rows)) * config.samples
        return [Generating(answers, longest, config.max_new_tokens, total=answers, within=training), training]
    # A reward model looks at the end of an answer alone.
    answer = 0 if method == "reward" else max(len(tokens.completion_ids) for row in rows for tokens in row.tokens)
    sequences_of_row = len(rows[0].tokens)
    fitting = max(1, config.micro_tokens // (sequences_of_row * longest))
    sequences = min(fitting, config.batch_size) * sequences_of_row
    return [Training(method, sequences, longest, sequences * answer, continued, config.checkpointing)]


def policy_training(config: PolicyConfig, prompt: int, *, continued: bool, scorers: int) -> Training:
    """The largest pass over answers that are as long as they may be; those to one prompt share it."""
    answer, samples = config.max_new_tokens, config.samples
    families = config.micro_tokens // (prompt + samples * answer)
    left = config.micro_tokens - families * (prompt + samples * answer)
    behind = -(-config.batch_size * samples // config.minibatches)
    rows = max(1, min(families * samples + max(0, left - prompt) // answer, behind))
    method: Method = "ppo" if config.method == "ppo" else "policy"
    return Training(
        method, rows, prompt + answer, rows * answer, continued, config.checkpointing, prompt, samples, scorers
    )
