"""A real, randomly initialised Llama of a few thousand weights on a real workbench, and made-up rows for it."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai.models.local.logprobs import TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.scorer import Scorer
from cai.models.local.spec import LoraSpec, ModelSpec, Quantization
from cai.models.local.workbench import Workbench, open_workbench
from cai.records import Message
from cai.seeds import derive, uniform
from cai.train.actor_critic import ActorCritic
from cai.train.reference import PairRow
from cai.train.rollout import PromptRow
from cai.train.sft import SftRow
from tests.train.acting import NewActor

SPECIAL = ["<|end|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 64


@pytest.fixture(scope="session")
def random_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("random-llama")
    letters = [chr(code) for code in range(ord("A"), ord("A") + VOCABULARY - len(SPECIAL))]
    tokens = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=tokens, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|end|>")
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}{{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
    )
    fast.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bench(random_llama: Path) -> Callable[[float, Quantization], Workbench]:
    @cache
    def opened(dropout: float, quantization: Quantization) -> Workbench:
        lora = LoraSpec(rank=4, alpha=8, dropout=dropout)
        return open_workbench(ModelSpec(str(random_llama), quantization=quantization, lora=lora, device="cpu"))

    return opened


@pytest.fixture
def new_trainee(bench: Callable[[float, Quantization], Workbench]) -> Iterator[Callable[..., Trainee]]:
    """`new_trainee(start=folder, dropout=0.1)`: equal arguments give equal trainees."""
    made: list[tuple[Workbench, Trainee]] = []

    def make(start: Path | None = None, dropout: float = 0.0, quantization: Quantization = "none") -> Trainee:
        workbench = bench(dropout, quantization)
        made.append((workbench, workbench.trainee(start, seed=7)))
        return made[-1][1]

    yield make
    for workbench, trainee in made:
        workbench.release(trainee)


def token_row(*name: object, tokens: range = range(VOCABULARY)) -> TokenRow:
    """A made-up row whose lengths and tokens follow from its name."""
    seed = derive(*name)
    prompt, completion = (2 + int(uniform(seed, place) * 9) for place in (0, 1))
    drawn = [tokens[int(uniform(seed, 2 + i) * len(tokens))] for i in range(prompt + completion)]
    return TokenRow(tuple(drawn[:prompt]), tuple(drawn[prompt:]))


@pytest.fixture
def sft_rows() -> list[SftRow]:
    return [SftRow(f"row-{i}", token_row("sft", i, tokens=range(10, 30))) for i in range(20)]


@pytest.fixture
def pair_rows() -> list[PairRow]:
    """Chosen answers from the lower half of the vocabulary, rejected ones from the upper half."""
    lower, upper = range(VOCABULARY // 2), range(VOCABULARY // 2, VOCABULARY)
    rows = []
    for i in range(20):
        chosen, rejected = token_row("c", i, tokens=lower), token_row("r", i, tokens=upper)
        rows.append(PairRow(f"pair-{i}", chosen, TokenRow(chosen.prompt_ids, rejected.completion_ids), 0.7 + 0.01 * i))
    return rows


@pytest.fixture
def acting_bench(bench: Callable[[float, Quantization], Workbench]) -> Workbench:
    return bench(0.5, "none")


@pytest.fixture
def prompts(acting_bench: Workbench) -> list[PromptRow]:
    made = []
    for i in range(8):
        messages = (Message("user", "ABCDEFGH"[i] * (1 + i % 3)),)
        made.append(PromptRow(f"prompt-{i}", messages, acting_bench.encode_prompt(messages)))
    return made


@pytest.fixture
def new_actor(acting_bench: Workbench) -> Iterator[NewActor]:
    """What a method trains. The adapter has dropout, which no policy method may use."""
    made: list[Trainee | Scorer] = []

    def make(method: str, seed: int = 7) -> Trainee | ActorCritic:
        policy = acting_bench.trainee(None, seed)
        made.append(policy)
        if method != "ppo":
            return policy
        value = acting_bench.scoring_trainee(None, seed, head="zero")
        made.append(value)
        return ActorCritic(policy, value)

    yield make
    for role in made:
        acting_bench.release(role)
