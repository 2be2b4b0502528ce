"""A small random model that ends its answers, and a pipeline on it that is done in seconds."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import Pipeline, load_pipeline
from tests.pipeline.trainings import asked, trained

ROOT = Path(__file__).parents[2]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
STAGES = """
  - revise: {rounds: 2, chunk: 3}
  - prefer: {pairs: revisions, unconfirmed: keep, tie_below: 0.5, chunk: 3}
  - sft: {helpful: 1, batch_size: 4, epochs: 2, checkpoint_every: 2}
  - prefer: {pairs: samples, samples: 3, from: sft, tie_below: 0.5, chunk: 3}
  - dpo: {batch_size: 4, checkpoint_every: 2}
  - evaluate: {chunk: 4, judge_pairs: 8}
"""


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over bytes. One row of its head is turned so that every position gives an end the same chance."""
    folder = tmp_path_factory.mktemp("models") / "random-llama"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>", "<|pad|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = CHATML
    fast.save_pretrained(str(folder))
    end = tokenizer.token_to_id("<|im_end|>")
    shape = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        eos_token_id=end,
        pad_token_id=tokenizer.token_to_id("<|pad|>"),
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = LlamaForCausalLM(shape)
    with torch.no_grad():
        # One coordinate of every embedding is constant and large, so it reaches the head: there it lifts the end.
        model.model.embed_tokens.weight[:, 0] = 4.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[end, 0] = 0.45
    model.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def small_file(random_model: Path) -> Path:
    """All stages, eight prompts, on the random model."""
    path = random_model.parent / "small.yaml"
    path.write_text(
        f"name: small\nseed: 7\nconstitution: {ROOT}/constitutions/tiny.yaml\n"
        f"model: {{base: {random_model}, quantization: none, lora: {{rank: 4}}}}\n"
        "prompts: {train: {from: tiny/align, limit: 8}, test: {from: tiny/test, limit: 8}}\n"
        f"stages:{STAGES}",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def finished(small_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that pipeline's run, which nothing may touch: `copied` gives a copy."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    events = list(run_pipeline(load_pipeline(small_file), folder))
    assert events[-1].kind == "run_finished"
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture
def small(small_file: Path) -> Callable[..., Pipeline]:
    """`small("seed=3")`: the pipeline of the finished run, with overrides."""

    def load(*overrides: str) -> Pipeline:
        return load_pipeline(small_file, overrides)

    return load


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a finished training by each method, made when it is first asked for; not to be changed."""
    root = tmp_path_factory.mktemp("made")

    def make(method: str) -> Path:
        if not (root / method).exists():
            assert trained(asked(method, root / method))[-1].kind == "run_finished"
        return root / method

    return make
