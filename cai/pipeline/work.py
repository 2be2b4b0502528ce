"""What each stage of a pipeline will ask of the model, worked out before anything runs: rows, tokens, calls, updates.

Every number is the most that there can be: each pair is judged, each answer is as long as it may be. What it needs in
memory is `plan`'s to ask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cai.evaluate.suites import GREEDY
from cai.feedback.styles import (
    NOTHING,
    Asked,
    Style,
    ask_answer,
    ask_critique,
    ask_judge,
    ask_revision,
    comparison_examples,
    critique_examples,
)
from cai.models.local.lengths import PER_MESSAGE, Counter, conversation_length
from cai.models.local.memory import PASS_TOKENS, Generating, Judging, Method, Training
from cai.pipeline.alone_memory import policy_training
from cai.pipeline.alone_rows import read_data
from cai.pipeline.configs import (
    EvaluateConfig,
    FilterConfig,
    JudgeStageConfig,
    JudgingConfig,
    PreferConfig,
    ReviseConfig,
    style_of,
)
from cai.pipeline.judging import meetings
from cai.pipeline.labelled import imported, labelled_set
from cai.pipeline.sources import Stage, makers
from cai.pipeline.spec import Pipeline
from cai.pipeline.training_configs import JUDGE, LEARNING, FromPairs, PolicyStageConfig, SftStageConfig
from cai.records import Prompt, new_prompt
from cai.train.config import TrainConfig

Batch = Generating | Judging | Training


@dataclass(frozen=True, slots=True)
class StageWork:
    """What one stage does at most, and its largest batches."""

    stage: str
    kind: str
    inputs: int
    rows: int
    """Records that it makes."""
    answers: int = 0
    judgements: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    """Tokens that are generated, if every answer is as long as it may be."""
    trained_tokens: int = 0
    updates: int = 0
    longest: int = 0
    """The longest sequence."""
    adapters: int = 0
    """Adapters that are resident beside those in training."""
    batches: tuple[Batch, ...] = ()


@dataclass(frozen=True, slots=True)
class Brought:
    """Pairs that a stage reads from elsewhere: the length of each prompt, and of the longest answer."""

    prompts: tuple[int, ...]
    answer: int


@dataclass(frozen=True, slots=True)
class Texts:
    """The lengths, in tokens, of prompts and of what stands around them and around answers, in one style."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    critique: int
    revision: int
    judgement: int
    """A question to the judge without request and answers, the worked examples before it included."""
    judging: int
    """Principles that judge."""
    brought: Mapping[int, Brought] = field(default_factory=dict)
    """By the number of the stage that reads them."""


@dataclass(frozen=True, slots=True)
class _Judgements:
    """What judging comes to."""

    judgements: int
    tokens: int
    longest: int
    batches: tuple[Batch, ...]
    thoughts: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class _Answers:
    """What earlier stages will have made: rows, and the length of their longest answer."""

    rows: int
    length: int
    rounds: int = 1
    prompts: tuple[int, ...] = ()
    """The lengths of what they answer."""


def works_of(pipeline: Pipeline, count: Counter) -> list[StageWork]:
    """Each stage's work, in order."""
    texts = {style: texts_of(pipeline, count, style) for style in {style_of(stage.config) for stage in pipeline.stages}}
    made: dict[int, _Answers] = {}
    works: list[StageWork] = []
    viewed: set[int | str] = set()
    for stage in pipeline.stages:
        started = (stage.sources.start, stage.sources.start_run) if isinstance(stage.config, PreferConfig) else ()
        viewed |= {made_by for made_by in (*started, stage.sources.judge, *stage.sources.models.values()) if made_by}
        read = _read(pipeline.stages, stage, made)
        own = texts[style_of(stage.config)]
        work = _work(stage, own, read, len(viewed))
        works.append(work)
        if stage.kind not in (*LEARNING, "filter"):
            rounds = stage.config.rounds if isinstance(stage.config, ReviseConfig) else 1
            length = _answer_length(stage, own, read)
            made[stage.number] = _Answers(work.rows, length, rounds, _prompts(stage, own, read))
    return works


def texts_of(pipeline: Pipeline, count: Counter, style: Style = "chat") -> Texts:
    constitution, seed = pipeline.constitution, pipeline.spec.seed
    revising, judging = constitution.for_use("revise"), constitution.for_use("judge")
    empty = new_prompt("")
    blank = _length(ask_answer(style, empty), count)
    critiques, revisions = [0], [0]
    for principle in revising:
        critique = ask_critique(style, NOTHING, empty, "", principle.critique)
        critiques.append(_length(critique, count) - blank)
        revision = ask_revision(critique, "", principle.revision)
        revisions.append(_length(revision, count) - _length(critique, count))
    questions = [_question_length(style, principle.preference, empty, count) for principle in judging]
    return Texts(
        tuple(_length(ask_answer(style, prompt), count) for prompt in pipeline.train),
        tuple(_length(ask_answer(style, prompt), count) for prompt in pipeline.test),
        _length(critique_examples(style, constitution), count) + max(critiques),
        max(revisions),
        _length(comparison_examples(style, constitution, seed), count) + max(questions, default=0),
        len(judging),
        {stage.number: brought for stage in pipeline.stages if (brought := _brought(stage, pipeline, count, style))},
    )


def _brought(stage: Stage, pipeline: Pipeline, count: Counter, style: Style) -> Brought | None:
    """The pairs that a stage brings along, measured; those of a large file take as long as reading it does."""
    pairs: list[tuple[Prompt, str, str]] = []
    file = pipeline.files.get(stage.number)
    if style_of(stage.config) != style:
        return None
    if isinstance(stage.config, JudgeStageConfig):
        found = labelled_set(stage.config.data, file, stage.config.limit, pipeline.constitution)
        pairs = [(known.prompt, known.better, known.worse) for known in found.pairs]
    elif isinstance(stage.config, SftStageConfig) and file is not None:
        given = read_data(file, "", "sft", "answers").candidates
        pairs = [(row.prompt, row.texts[0], "") for row in given]
    elif file is not None:
        pairs = [(row.prompt, row.chosen, row.rejected) for row in imported(file)[0]]
    if not pairs:
        return None
    longest = max(count(text) for _, *both in pairs for text in both)
    return Brought(tuple(_length(ask_answer(style, prompt), count) for prompt, _, _ in pairs), longest)


def _read(stages: Sequence[Stage], stage: Stage, made: dict[int, _Answers]) -> list[_Answers]:
    """What a stage reads of earlier ones: filters only take away, so at most what was made before them."""
    found = makers(stages, {*stage.sources.revisions, *stage.sources.preferences})
    if isinstance(stage.config, FromPairs) and stage.config.pairs not in ("all", "new"):
        settings = {s.number: s.config for s in stages if isinstance(s.config, PreferConfig)}
        found = tuple(n for n in found if settings[n].pairs == stage.config.pairs)
    return [made[number] for number in found]


def _work(stage: Stage, texts: Texts, read: list[_Answers], adapters: int) -> StageWork:
    match stage.config:
        case ReviseConfig() as config:
            return _revise(config, stage.name, texts, adapters)
        case JudgeStageConfig() as config:
            return _judge(config, stage, texts, adapters)
        case PreferConfig() as config:
            return _prefer(config, stage, texts, read, adapters)
        case FilterConfig():
            rows = sum(each.rows for each in read)
            return StageWork(stage.name, "filter", rows, rows, adapters=adapters)
        case SftStageConfig() as config:
            every = config.revisions == "all"
            rows = sum(each.rows * (each.rounds if every else 1) for each in read)
            made = _Answers(rows, _longest(read), 1, _prompts(stage, texts, read)) if read else _Answers(0, 0)
            return _train(config, stage, _with_given(made, texts.brought.get(stage.number)), adapters)
        case PolicyStageConfig() as config:
            return _policy(config, stage, texts, adapters)
        case EvaluateConfig() as config:
            return _evaluate(config, stage, texts, adapters)
        case config:
            pairs = sum(each.rows for each in read)
            return _train(config, stage, _Answers(pairs, _longest(read), 1, _prompts(stage, texts, read)), adapters)


def _with_given(made: _Answers, given: Brought | None) -> _Answers:
    """The rows that earlier stages made, and those that the user brought."""
    if given is None:
        return made
    rows, length = made.rows + len(given.prompts), max(made.length, given.answer)
    return _Answers(rows, length, 1, (*made.prompts, *given.prompts))


def _revise(config: ReviseConfig, name: str, texts: Texts, adapters: int) -> StageWork:
    new, prompts = config.max_new_tokens, texts.train
    longest = max(prompts) + texts.critique + 2 * new + texts.revision
    each_round = [texts.critique + new, texts.critique + 2 * new + texts.revision]
    asked = sum(p + config.rounds * sum(p + beside for beside in each_round) for p in prompts)
    calls = len(prompts) * (1 + 2 * config.rounds)
    batch = _generating(min(config.chunk, len(prompts)), longest, new, config.temperature > 0)
    return StageWork(
        name, "revise", len(prompts), len(prompts), calls, 0, asked, calls * new,
        longest=longest + new, adapters=adapters, batches=(batch,),
    )  # fmt: skip


def _prefer(config: PreferConfig, stage: Stage, texts: Texts, read: list[_Answers], adapters: int) -> StageWork:
    prompts = _prompts(stage, texts, read)
    if config.pairs == "samples":
        inputs, answer, of_one = len(prompts), config.max_new_tokens, meetings(config)
        answers, rows = inputs * config.samples, inputs if config.keep == "best" else inputs * of_one
    else:
        brought = texts.brought.get(stage.number)
        inputs, answer = (len(prompts), brought.answer) if brought else (sum(r.rows for r in read), _longest(read))
        answers, rows, of_one = 0, inputs, 1
    judging = _judge_pairs(config, texts, prompts, inputs * of_one, answer, config.chunk * of_one)
    batches = judging.batches
    if answers:
        at_once = min(config.chunk * config.samples, answers)
        batches = (_generating(at_once, max(prompts), answer, config.temperature > 0), *batches)
    return StageWork(
        stage.name, "prefer", inputs, rows, answers + judging.thoughts, judging.judgements,
        sum(prompts) * (answers // inputs) + judging.tokens, answers * answer + judging.new_tokens,
        longest=judging.longest, adapters=adapters, batches=batches,
    )  # fmt: skip


def _judge(config: JudgeStageConfig, stage: Stage, texts: Texts, adapters: int) -> StageWork:
    brought = texts.brought.get(stage.number)
    if brought is None:
        return StageWork(stage.name, "judge", 0, 0, adapters=adapters)
    pairs = len(brought.prompts)
    judging = _judge_pairs(config, texts, brought.prompts, pairs, brought.answer, config.chunk)
    return StageWork(
        stage.name, "judge", pairs, pairs, judging.thoughts, judging.judgements, judging.tokens, judging.new_tokens,
        longest=judging.longest, adapters=adapters, batches=judging.batches,
    )  # fmt: skip


def _judge_pairs(
    config: JudgingConfig, texts: Texts, prompts: Sequence[int], pairs: int, answer: int, at_once: int
) -> _Judgements:
    """Every principle asked about every pair in both orders, and every thought as long as it may be."""
    wanted = {"all": texts.judging, "drawn": 1}.get(str(config.principles), config.principles)
    principles = min(int(wanted), texts.judging)
    chains, thought = max(1, config.reasoning), config.reasoning_tokens if config.reasoning else 0
    questions = 2 * principles * pairs * chains
    around = texts.judgement + 2 * answer
    longest = max(prompts) + around + thought
    batches: list[Batch] = [_judging(2 * principles * min(at_once, pairs) * chains, longest)]
    if thought:
        batches.insert(0, _generating(2 * principles * min(at_once, pairs) * chains, longest, thought, sampled=True))
    read = questions * (sum(prompts) // len(prompts) + around)
    thoughts = questions if thought else 0
    return _Judgements(
        questions, read + (read + questions * thought if thought else 0), longest, tuple(batches), thoughts,
        thoughts * thought,
    )  # fmt: skip


def _train(config: TrainConfig, stage: Stage, rows: _Answers, adapters: int) -> StageWork:
    length = max(rows.prompts) + rows.length
    updates = -(-rows.rows // config.batch_size) * config.epochs
    each = 1 if stage.kind == "sft" else 2
    shared = max(rows.prompts) if each == 2 else 0
    of_one = each * length - shared
    sequences = min(max(1, config.micro_tokens // of_one), config.batch_size, max(1, rows.rows)) * each
    methods: dict[str, Method] = {"sft": "sft", "reward": "reward"}
    method = methods.get(stage.kind, "dpo")
    continued = stage.sources.start is not None or bool(stage.sources.start_run)
    scored = 0 if method == "reward" else sequences * rows.length
    batch = Training(method, sequences, length, scored, continued, config.checkpointing, shared)
    mean = sum(rows.prompts) // len(rows.prompts) + rows.length
    passes = each * rows.rows * (config.epochs + (1 if method == "dpo" else 0))
    return StageWork(
        stage.name, stage.kind, rows.rows, rows.rows, trained_tokens=passes * mean, updates=updates,
        longest=length, adapters=adapters, batches=(batch,),
    )  # fmt: skip


def _policy(config: PolicyStageConfig, stage: Stage, texts: Texts, adapters: int) -> StageWork:
    """Every prompt answered by its samples in each epoch, each answer rewarded and learnt from."""
    prompts, new = texts.train, config.max_new_tokens
    answers = len(prompts) * config.samples * config.epochs
    length = max(prompts) + new
    at_once = min(config.batch_size, len(prompts)) * config.samples
    continued = stage.sources.start is not None or bool(stage.sources.start_run)
    training = policy_training(config, max(prompts), continued=continued, scorers=int(bool(stage.sources.reward)))
    batches: list[Batch] = [Generating(at_once, max(prompts), new, total=at_once, within=training), training]
    judgements = 0
    if config.reward == JUDGE:
        judgements = answers * (texts.judging if config.principles == "all" else 1)
        batches.append(_judging(at_once * texts.judging, length + texts.judgement))
    rounds = -(-len(prompts) // config.batch_size) * config.epochs
    each = sum(prompts) // len(prompts) + new
    return StageWork(
        stage.name, stage.kind, len(prompts), len(prompts), answers, judgements,
        answers * (each - new) + judgements * (each + texts.judgement), answers * new,
        trained_tokens=answers * each * (config.rollout_epochs + 2),
        updates=rounds * config.rollout_epochs * config.minibatches,
        longest=length, adapters=adapters, batches=tuple(batches),
    )  # fmt: skip


def _evaluate(config: EvaluateConfig, stage: Stage, texts: Texts, adapters: int) -> StageWork:
    models, new = len(stage.sources.models), GREEDY.max_new_tokens
    answers = models * len(texts.test) * len(config.suites)
    judged = config.judge_pairs if "tiny" in config.suites else 0
    judgements = 2 * texts.judging * judged
    batches: list[Batch] = [_generating(min(config.chunk, len(texts.test)), max(texts.test), new, sampled=False)]
    longest = max(texts.test) + new
    if judgements:
        longest = max(texts.test) + texts.judgement + 2 * new
        batches.append(_judging(2 * texts.judging * min(config.chunk, judged), longest))
    asked = models * len(config.suites) * sum(texts.test) + judgements * longest
    inputs = answers + judged
    return StageWork(
        stage.name, "evaluate", inputs, inputs, answers, judgements, asked, answers * new,
        longest=longest, adapters=adapters, batches=tuple(batches),
    )  # fmt: skip


def _generating(rows: int, prompt: int, reply: int, sampled: bool = True) -> Generating:
    """As many as are asked for; how many of them go together is `plan`'s to say."""
    return Generating(rows, prompt, reply, sampled)


def _judging(rows: int, length: int) -> Judging:
    return Judging(max(1, min(rows, PASS_TOKENS // length)), length)


def _longest(read: Sequence[_Answers]) -> int:
    return max(each.length for each in read)


def _prompts(stage: Stage, texts: Texts, read: Sequence[_Answers]) -> tuple[int, ...]:
    """The prompts that the records of a stage are about."""
    if stage.number in texts.brought:
        return texts.brought[stage.number].prompts
    if stage.sources.prompts == "train":
        return texts.train
    return tuple(dict.fromkeys(length for each in read for length in each.prompts))


def _answer_length(stage: Stage, texts: Texts, read: Sequence[_Answers]) -> int:
    if stage.number in texts.brought:
        return texts.brought[stage.number].answer
    match stage.config:
        case ReviseConfig() as config:
            return config.max_new_tokens
        case PreferConfig(pairs="revisions"):
            return _longest(read)
        case PreferConfig() as config:
            return config.max_new_tokens
        case _:
            return 0


def _question_length(style: Style, preference: str, prompt: Prompt, count: Counter) -> int:
    asked = ask_judge(style, NOTHING, prompt, ("", ""), preference, 0)
    return _length(Asked(asked.messages, asked.text), count)


def _length(asked: Asked, count: Counter) -> int:
    """Of a conversation as a template writes it, or of a plain text with what the tokenizer may put before it."""
    if asked.text:
        return count(asked.text) + PER_MESSAGE
    return conversation_length([message.content for message in asked.messages], count) if asked.messages else 0
