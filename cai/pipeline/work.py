"""What each stage of a pipeline will ask of the model, worked out before anything runs: rows, tokens, calls, updates.

Every number is the most that there can be: each pair is judged, each answer is as long as it may be. What it needs in
memory is `plan`'s to ask.
"""

from dataclasses import dataclass

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
from cai.models.local.memory import GENERATE_ROWS, GENERATE_TOKENS, PASS_TOKENS, Generating, Judging, Method, Training
from cai.pipeline.configs import (
    TRAINING,
    DpoStageConfig,
    EvaluateConfig,
    PreferConfig,
    ReviseConfig,
    SftStageConfig,
    style_of,
)
from cai.pipeline.sources import Stage
from cai.pipeline.spec import Pipeline
from cai.records import Prompt, new_prompt
from cai.train.config import TrainConfig

Batch = Generating | Judging | Training

_PAIRS_OF_SAMPLES = 6
"""Most pairs that one prompt's samples give; `feedback.pairs` says the same."""


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


@dataclass(frozen=True, slots=True)
class _Answers:
    """What earlier stages will have made: rows, and the length of their longest answer."""

    rows: int
    length: int
    rounds: int = 1


def works_of(pipeline: Pipeline, count: Counter) -> list[StageWork]:
    """Each stage's work, in order."""
    texts = {style: texts_of(pipeline, count, style) for style in {style_of(stage.config) for stage in pipeline.stages}}
    made: dict[int, _Answers] = {}
    works: list[StageWork] = []
    viewed: set[int | str] = set()
    for stage in pipeline.stages:
        started = (stage.sources.start, stage.sources.start_run) if isinstance(stage.config, PreferConfig) else ()
        viewed |= {made_by for made_by in (*started, *stage.sources.models.values()) if made_by}
        work = _work(stage, texts[style_of(stage.config)], made, len(viewed))
        works.append(work)
        if stage.kind not in TRAINING:
            rounds = stage.config.rounds if isinstance(stage.config, ReviseConfig) else 1
            made[stage.number] = _Answers(work.rows, _answer_length(stage, made), rounds)
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
    )


def _work(stage: Stage, texts: Texts, made: dict[int, _Answers], adapters: int) -> StageWork:
    match stage.config:
        case ReviseConfig() as config:
            return _revise(config, stage.name, texts, adapters)
        case PreferConfig() as config:
            return _prefer(config, stage, texts, made, adapters)
        case SftStageConfig() as config:
            revised = [made[n] for n in stage.sources.revisions]
            every = config.revisions == "all"
            rows = sum(each.rows * (each.rounds if every else 1) for each in revised)
            return _train(config, stage, texts, _Answers(rows, max(each.length for each in revised)), adapters)
        case DpoStageConfig() as config:
            found = [made[n] for n in stage.sources.preferences]
            pairs = _Answers(sum(each.rows for each in found), max(each.length for each in found))
            return _train(config, stage, texts, pairs, adapters)
        case EvaluateConfig() as config:
            return _evaluate(config, stage, texts, adapters)


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


def _prefer(config: PreferConfig, stage: Stage, texts: Texts, made: dict[int, _Answers], adapters: int) -> StageWork:
    principles = texts.judging if config.principles == "all" else 1
    if config.pairs == "revisions":
        found = [made[number] for number in stage.sources.revisions]
        inputs, answer = sum(each.rows for each in found), max(each.length for each in found)
        pairs, answers, each_chunk = inputs, 0, config.chunk
    else:
        inputs, answer = len(texts.train), config.max_new_tokens
        of_one = min(_PAIRS_OF_SAMPLES, config.samples * (config.samples - 1) // 2)
        pairs, answers, each_chunk = inputs * of_one, inputs * config.samples, config.chunk * of_one
    judgements = 2 * principles * pairs
    longest = max(texts.train) + texts.judgement + 2 * answer
    batches: list[Batch] = [_judging(2 * principles * min(each_chunk, pairs), longest)]
    if answers:
        rows = min(config.chunk * config.samples, answers)
        batches.insert(0, _generating(rows, max(texts.train), answer, config.temperature > 0))
    asked = sum(texts.train) * (answers // inputs) if answers else 0
    judged = (
        2
        * principles
        * (pairs // max(1, len(texts.train)))
        * sum(p + texts.judgement + 2 * answer for p in texts.train)
    )
    return StageWork(
        stage.name, "prefer", inputs, pairs, answers, judgements, asked + judged, answers * answer,
        longest=longest, adapters=adapters, batches=tuple(batches),
    )  # fmt: skip


def _train(config: TrainConfig, stage: Stage, texts: Texts, rows: _Answers, adapters: int) -> StageWork:
    length = max(texts.train) + rows.length
    updates = -(-rows.rows // config.batch_size) * config.epochs
    each = 2 if stage.kind == "dpo" else 1
    sequences = min(max(1, config.micro_tokens // (each * length)), config.batch_size, max(1, rows.rows)) * each
    method: Method = "dpo" if stage.kind == "dpo" else "sft"
    continued = stage.sources.start is not None or bool(stage.sources.start_run)
    scored = sequences * rows.length
    batch = Training(method, sequences, length, scored, continued, config.checkpointing)
    mean = sum(texts.train) // len(texts.train) + rows.length
    passes = each * rows.rows * (config.epochs + (1 if method == "dpo" else 0))
    return StageWork(
        stage.name, stage.kind, rows.rows, rows.rows, trained_tokens=passes * mean, updates=updates,
        longest=length, adapters=adapters, batches=(batch,),
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


def _generating(rows: int, prompt: int, reply: int, sampled: bool) -> Generating:
    together = max(1, min(rows, GENERATE_ROWS, GENERATE_TOKENS // (prompt + reply)))
    return Generating(together, prompt, reply, sampled)


def _judging(rows: int, length: int) -> Judging:
    return Judging(max(1, min(rows, PASS_TOKENS // length)), length)


def _answer_length(stage: Stage, made: dict[int, _Answers]) -> int:
    match stage.config:
        case ReviseConfig() as config:
            return config.max_new_tokens
        case PreferConfig(pairs="revisions"):
            return max(made[number].length for number in stage.sources.revisions)
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
