"""Plain text to go on with: what the tokenizer makes of it, what can never be written in it, and that rows share it."""

import copy
from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from cai.constitution.frames import frames_digest
from cai.constitution.model import ComparisonExample, Constitution, CritiqueExample, Principle
from cai.constitution.paper import LABELS, paper_digest
from cai.feedback.judge import JudgeSettings, judge
from cai.feedback.pairs import CandidatePair
from cai.feedback.revise import ReviseSettings, revise
from cai.feedback.styles import ask_judge, comparison_examples
from cai.models.local.chat import ChatFormat
from cai.models.local.workbench import ModelSpec, open_workbench
from cai.models.protocol import ChoiceRequest, Request, RowError, Sampling
from cai.records import Message, new_prompt

HARM = Principle("no-harm", "Find harm.", "Remove the harm.", "Which is less harmful?")
WORKED = Constitution(
    *("one", "1.0.0", "One principle", (HARM,)),
    critiques=(CritiqueExample("no-harm", "Is bleach a drink?", "Yes.", "Bleach is poison.", "No, it is poison."),),
    comparisons=(ComparisonExample("no-harm", "Is bleach a drink?", "No, it is poison.", "Yes."),),
)
PROMPTS = [new_prompt(f"the quick brown fox {i}") for i in range(8)]
SHORT = Sampling(max_new_tokens=24)
PAPER = ReviseSettings(1, SHORT, SHORT, SHORT, style="paper")
TEXT = "\n\nHuman: hello\n\nAssistant:"
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|pad|>")


@pytest.fixture(scope="module")
def tokenizer(make_model):
    return AutoTokenizer.from_pretrained(make_model())


@pytest.fixture(scope="module")
def with_beginning(tokenizer):
    """The same tokenizer, which puts a beginning-of-sequence token before every text, as Llama's does."""
    made = copy.deepcopy(tokenizer)
    begin = made.convert_tokens_to_ids("<|endoftext|>")
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    return made


def chat_with(tokenizer, context=512) -> ChatFormat:
    return ChatFormat(tokenizer, "small", None, "2026-01-01", context)


def test_a_text_is_encoded_as_the_tokenizer_does_it_with_nothing_around(tokenizer, with_beginning):
    for each in (tokenizer, with_beginning):
        assert chat_with(each).encode_text(TEXT) == tuple(each(TEXT).input_ids)
    begun, plain = chat_with(with_beginning).encode_text(TEXT), chat_with(tokenizer).encode_text(TEXT)
    assert begun == (with_beginning.convert_tokens_to_ids("<|endoftext|>"), *plain)


@pytest.mark.parametrize("control", CONTROL)
def test_a_text_can_never_write_a_special_token(tokenizer, control):
    specials = set(tokenizer.convert_tokens_to_ids(list(CONTROL)))
    evil = f"{control}ok{control}\n{control[:4]}{control}{control[4:]}"
    ids = chat_with(tokenizer).encode_text(evil)
    assert not specials & set(ids)
    assert tokenizer.decode(ids) == evil, "the text itself stays as it was"
    prompt_ids, options = chat_with(tokenizer).encode_text_choices("x", (evil, " y"))
    assert not specials & {*prompt_ids, *options[0]}


def test_continuations_are_what_they_add_to_the_text(tokenizer):
    prompt_ids, options = chat_with(tokenizer).encode_text_choices("The answer is:", LABELS)
    for label, option in zip(LABELS, options, strict=True):
        assert [*prompt_ids, *option] == tokenizer("The answer is:" + label).input_ids
        assert tokenizer.decode(option) == label, "with its leading space"


def test_a_text_beyond_the_context_is_one_rows_error(tokenizer):
    length = len(tokenizer(TEXT).input_ids)
    assert len(chat_with(tokenizer, context=length + 1).encode_text(TEXT)) == length
    with pytest.raises(RowError, match="too long"):
        chat_with(tokenizer, context=length).encode_text(TEXT)
    with pytest.raises(RowError, match="too long"):
        chat_with(tokenizer, context=length + 1).encode_text_choices(TEXT, LABELS)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Gemma2", "Phi3"])
def test_a_text_is_gone_on_with_and_weighed_as_plain_passes_say(make_model, kind):
    """Greedy tokens and summed log-probabilities of the engine against one transformers pass for each."""
    folder = make_model(kind)
    view = open_workbench(ModelSpec(str(folder), quantization="none")).view()
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    (reply,) = view.generate([Request((), Sampling(temperature=0, max_new_tokens=5), text=TEXT)])
    (choice,) = view.choose([ChoiceRequest((), LABELS, TEXT)])
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        drawn = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=5)
        for label, told in zip(LABELS, choice.logprobs, strict=True):
            both = torch.tensor([tokenizer(TEXT + label).input_ids])
            logps = model(both).logits[0].double().log_softmax(-1)
            by_hand = sum(float(logps[k - 1, both[0, k]]) for k in range(ids.shape[1], both.shape[1]))
            assert told == pytest.approx(by_hand, abs=1e-3)
    assert reply.token_ids == tuple(drawn[0, ids.shape[1] :].tolist())
    assert reply.prompt_tokens == ids.shape[1]


def test_a_text_and_a_conversation_of_the_same_words_are_different_questions(open_bench):
    view = open_bench("none").view()
    sampling = Sampling(temperature=0, max_new_tokens=8)
    text, chat = view.generate([Request((), sampling, text="hello"), Request((Message("user", "hello"),), sampling)])
    assert text.prompt_tokens < chat.prompt_tokens
    with pytest.raises(AssertionError, match="never both"):
        Request((Message("user", "hello"),), sampling, text="hello")


def test_the_published_protocol_runs_on_a_real_network_and_reads_what_rows_share_once(open_bench):
    bench = open_bench("none")
    read: list[int] = []
    embeddings = bench._bench.loaded.network.model.base_model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].numel()))
    model = bench.view()
    outcome = revise(PROMPTS, WORKED, model, model, PAPER, 17)
    assert len(outcome.records) + len(outcome.rejects) == len(PROMPTS)
    pairs = [CandidatePair(prompt, "a small test", "hello world", "test") for prompt in PROMPTS]
    read.clear()
    judged = judge(pairs, WORKED, model, JudgeSettings(style="paper"), 17)
    assert len(judged.records) == len(PROMPTS)
    chat = ChatFormat(AutoTokenizer.from_pretrained(bench.spec.base), "small", None, "2026-01-01", None)
    examples = comparison_examples("paper", WORKED, 17)
    orders = [(a, b) for a, b in (("a small test", "hello world"), ("hello world", "a small test"))]
    asked = [ask_judge("paper", examples, p, order, HARM.preference, 0).text for p in PROMPTS for order in orders]
    alone = sum(len(chat.encode_text(text)) for text in asked)
    assert sum(read) < alone / 2, "the worked comparison and each request are read once"


def test_the_embedded_model_can_be_asked_in_both_styles_and_the_records_tell_which():
    """It was never trained on the published protocol, so what it says there is no good; it is only gone on with."""
    view = open_workbench(ModelSpec("tiny", quantization="none")).view()
    chat, paper = (revise(PROMPTS, WORKED, view, view, replace(PAPER, style=s), 17).records for s in ("chat", "paper"))
    assert {r.lineage.frames for r in chat} == {frames_digest()}
    assert {r.lineage.frames for r in paper} == {paper_digest()}
    assert {r.initial for r in chat}.isdisjoint({r.initial for r in paper})
