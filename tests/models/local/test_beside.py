"""LoRA layers that read the same input, computed together: values and gradients against plain arithmetic."""

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cai.models.local.beside import idle
from cai.models.local.lora import Adapters
from cai.models.local.spec import LoraSpec

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "vocab_size": 50}
NAMES = ("q_proj", "k_proj", "v_proj")


@pytest.fixture
def adapters() -> Adapters:
    """Of a small Llama with biases, with one adapter that changes what it says."""
    torch.manual_seed(3)
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, attention_bias=True, **SIZES)
    made = Adapters(LlamaForCausalLM(config).requires_grad_(False))
    made.add_fresh("own", LoraSpec(rank=4), 1)
    for parameter in made.parameters("own").values():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
        parameter.requires_grad_(True)
    return made


def layers(adapters: Adapters, names: Sequence[str] = NAMES) -> list[Any]:
    model: PreTrainedModel = adapters._model
    attention = model.get_decoder().layers[0].self_attn
    return [getattr(attention, name) for name in names]


def plainly(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """A layer's output by the formula."""
    a, b = layer.lora_A["own"].weight, layer.lora_B["own"].weight
    base = layer.base_layer
    return x @ base.weight.T + base.bias + layer.scaling["own"] * ((x @ a.T) @ b.T)


def inputs(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, 7, 24, generator=generator).requires_grad_() for _ in range(count)]


def gradients(outs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(6)
    given = [torch.randn(out.shape, generator=generator) for out in outs]
    return list(torch.autograd.grad(outs, wanted, given, allow_unused=True))


@pytest.mark.parametrize("used", [(0, 1, 2), (1, 2), (0,), (2, 0)])
def test_values_and_gradients_are_those_of_each_layer_alone(adapters: Adapters, used: tuple[int, ...]) -> None:
    """Whichever of the outputs somebody reads; the others' weights then have no gradient."""
    (x,) = inputs(1)
    weights = [p for key, p in adapters.parameters("own").items() if key.split(".")[-3] in NAMES]
    assert len(weights) == 6
    with adapters.training("own", None):
        outs = [layer(x) for layer in layers(adapters)]
    expected = [plainly(layer, x) for layer in layers(adapters)]
    found = gradients([outs[k] for k in used], [x, *weights])
    for own, plain in zip(found, gradients([expected[k] for k in used], [x, *weights]), strict=True):
        assert (own is None) == (plain is None)
        if own is not None and plain is not None:
            torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)
    assert sum(each is None for each in found) == 2 * (3 - len(used))
    for out, plain_out in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, plain_out, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rounds", [1, 3])
def test_layers_that_are_given_different_inputs_all_the_same_say_what_they_should(
    adapters: Adapters, rounds: int
) -> None:
    given = inputs(3)
    for _ in range(rounds):
        with adapters.training("own", None):
            outs = [layer(x) for layer, x in zip(layers(adapters), given, strict=True)]
        for layer, x, out in zip(layers(adapters), given, outs, strict=True):
            torch.testing.assert_close(out, plainly(layer, x), atol=1e-4, rtol=1e-4)
        assert all(gradient is not None for gradient in gradients(outs, given))


def test_another_adapter_and_the_base_read_the_same_input_for_themselves(adapters: Adapters) -> None:
    """One with fewer targets, so that a layer of the family has no part in it."""
    adapters.add_fresh("fewer", LoraSpec(rank=2, targets=("q_proj", "v_proj")), 2)
    (x,) = inputs(1)
    for each in adapters.parameters("fewer").values():
        each.data = torch.ones_like(each)
    told = {}
    for name in ("own", "fewer", None):
        with adapters.active(name):
            told[name] = [layer(x) for layer in layers(adapters)]
    for k, layer in enumerate(layers(adapters)):
        plain = layer.base_layer(x)
        torch.testing.assert_close(told[None][k], plain)
        torch.testing.assert_close(told["own"][k], plainly(layer, x), atol=1e-4, rtol=1e-4)
        assert torch.equal(told["fewer"][k], plain) == (NAMES[k] == "k_proj")


def test_a_pass_that_broke_off_leaves_nothing_wrong_behind(adapters: Adapters) -> None:
    first, second = inputs(2)
    query, key, value = layers(adapters)
    with adapters.training("own", None):
        query(first)
        outs = [query(second), key(second), value(second)]
    for layer, out in zip((query, key, value), outs, strict=True):
        torch.testing.assert_close(out, plainly(layer, second), atol=1e-4, rtol=1e-4)


def test_nothing_of_a_pass_is_kept_once_all_have_read(adapters: Adapters) -> None:
    (x,) = inputs(1)
    own = x * 1
    gone = weakref.ref(own)
    with adapters.training("own", None):
        for layer in layers(adapters):
            layer(own)
    del own
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("tokens", [1, 9, 58])
def test_a_pass_without_gradients_says_the_same_to_the_last_bit(adapters: Adapters, tokens: int) -> None:
    """So that a policy's first ratio to a copy of itself is one, and a preference's first loss is ln 2."""
    x = torch.randn(1, tokens, 24, generator=torch.Generator().manual_seed(5))
    with adapters.training("own", None):
        learning = [layer(x) for layer in layers(adapters)]
        with torch.no_grad():
            asked = [layer(x) for layer in layers(adapters)]
    assert all(out.requires_grad for out in learning)
    assert all(torch.equal(a, b) for a, b in zip(learning, asked, strict=True))


def test_an_idle_layer_says_zeros_and_the_others_what_they_say(adapters: Adapters) -> None:
    (x,) = inputs(1)
    attention = adapters._model.get_decoder().layers[0].self_attn
    with adapters.training("own", None):
        with idle(attention, ("q_proj", "o_proj", "missing")):
            query, key, value = (layer(x) for layer in layers(adapters))
        again = layers(adapters)[0](x)
    assert query.shape == (2, 7, 24)
    assert not query.any()
    assert not query.requires_grad
    torch.testing.assert_close(key, plainly(layers(adapters)[1], x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(value, plainly(layers(adapters)[2], x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again, plainly(layers(adapters)[0], x), atol=1e-4, rtol=1e-4)


def test_what_one_thread_keeps_or_leaves_idle_is_not_another_s(adapters: Adapters) -> None:
    """Between two layers' calls in one thread, another runs all of them, with another input."""
    (first, second), (q, k, v) = inputs(2), layers(adapters)
    expected = [plainly(layer, second) for layer in (q, k, v)]
    found: list[torch.Tensor] = []

    def between() -> None:
        thread = threading.Thread(target=lambda: found.extend(layer(second) for layer in (q, k, v)))
        thread.start()
        thread.join()

    attention = adapters._model.get_decoder().layers[0].self_attn
    with adapters.training("own", None):
        own = q(first)
        between()
        made = k(first).grad_fn
        assert made is own.grad_fn, "computed with the first"
        v(first)
        with idle(attention, NAMES):
            between()
            assert k(first).abs().sum() == 0
    for out, plain in zip(found, 2 * expected, strict=True):
        torch.testing.assert_close(out, plain, atol=1e-4, rtol=1e-4)
