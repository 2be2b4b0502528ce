"""Advantages against numbers derived by hand, against a plain loop, and the properties that they must have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cai.train.advantages import (
    ADVANTAGES,
    Advantages,
    AdvantageSettings,
    Scored,
    gae,
    group_relative,
    leave_one_out,
    whitened,
    without_end,
)


def near(found: torch.Tensor, expected: list[object]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=1e-5)


def answer(k1: list[float], values: list[float], score: float, behind: bool = False) -> Scored:
    """One answer; `values` has one number more than there are tokens, and `behind` says whether the last one counts."""
    n = len(k1)
    old_NT = torch.tensor([k1]) - 1.0
    value_mask_NU = torch.tensor([[True] * n + [behind]])
    mask_NT = torch.ones(1, n, dtype=torch.bool)
    return Scored(torch.tensor([score]), old_NT, -torch.ones(1, n), mask_NT, torch.tensor([values]), value_mask_NU)


def returns(scored: Scored, options: AdvantageSettings) -> torch.Tensor:
    found = gae(scored, options).returns_NU
    assert found is not None
    return found


def test_generalised_advantages_by_hand() -> None:
    """β = 0.1, so rewards are −0.1, 0, −0.2 + 3; V = 1, 2, 1; γ = 1/2, λ = 1/2, γλ = 1/4.

    δ = −0.1 + 1 − 1 = −0.1;  0 + 0.5 − 2 = −1.5;  2.8 − 1 = 1.8
    A_3 = 1.8;  A_2 = −1.5 + 0.45 = −1.05;  A_1 = −0.1 − 0.2625 = −0.3625;  R = A + V = 0.6375, 0.95, 2.8
    whitened over the three tokens: mean 0.129167, standard deviation 1.214339
    """
    scored = answer([1.0, 0.0, 2.0], [1.0, 2.0, 1.0, 7.0], 3.0)
    options = AdvantageSettings(kl=0.1, gamma=0.5, lam=0.5)
    near(returns(scored, options), [[0.6375, 0.95, 2.8, 0.0]])
    near(gae(scored, options).policy_NT, [[-0.404884, -0.971036, 1.375920]])


def test_a_score_behind_the_answer_is_bootstrapped_through_the_value_there() -> None:
    """γ = 1, λ = 1/2, V = 1, 2 and 4 behind, score 3, no penalty: δ = 1, 2, −1; A = 1 + ½·1.5, 2 − ½, −1."""
    scored = answer([0.0, 0.0], [1.0, 2.0, 4.0], 3.0, behind=True)
    near(returns(scored, AdvantageSettings(lam=0.5)), [[2.75, 3.5, 3.0]])


def test_with_lambda_1_returns_are_what_was_still_to_come_whatever_the_values_are() -> None:
    for values in ([0.0, 0.0, 0.0, 0.0], [5.0, -3.0, 2.0, 9.0]):
        scored = answer([1.0, 2.0, 3.0], values, 10.0)
        near(returns(scored, AdvantageSettings(kl=1.0, lam=1.0)), [[4.0, 5.0, 7.0, 0.0]])


def test_whitening_by_hand_is_over_real_tokens_and_rewards_keep_their_mean() -> None:
    """Of 1, 3 and 5 the mean is 3 and the variance 8/3; what the mask hides has no part in it."""
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 100.0]]), torch.tensor([[True, True], [True, False]])
    unit = 2 / math.sqrt(8 / 3)
    near(whitened(values, mask, keep_mean=False), [[-unit, 0.0], [unit, 0.0]])
    near(whitened(values, mask, keep_mean=True), [[3 - unit, 3.0], [3 + unit, 0.0]])


def test_whitened_rewards_come_before_the_values() -> None:
    """Rewards 0 and 4, mean 2 and variance 4, become 1 and 3; with V = 0, γ = λ = 1 returns are 4 and 3."""
    scored = answer([0.0, 0.0], [0.0, 0.0, 0.0], 4.0)
    near(returns(scored, AdvantageSettings(lam=1.0, whiten_rewards=True)), [[4.0, 3.0, 0.0]])


def group(scores: list[float], k1: list[float]) -> Scored:
    """Answers of two tokens, the second masked out, where it holds what must not count."""
    n = len(scores)
    mask = torch.tensor([[True, False]]).expand(n, 2)
    old_NT = torch.stack([torch.tensor(k1) - 1, torch.full((n,), 50.0)], dim=1)
    return Scored(torch.tensor(scores), old_NT, -torch.ones(n, 2), mask)


def test_leave_one_out_by_hand() -> None:
    """β = ½: R = 1, 2, 6 and 3, 3, 0; 1 − 4 = −3, 2 − 3.5 = −1.5, 6 − 1.5 = 4.5; 3 − 1.5, 3 − 1.5, 0 − 3."""
    scored = group([1.0, 3.0, 6.0, 3.0, 4.0, 0.0], [0.0, 2.0, 0.0, 0.0, 2.0, 0.0])
    found = leave_one_out(scored, AdvantageSettings(kl=0.5, samples=3))
    near(found.policy_NT, [[-3.0, 0.0], [-1.5, 0.0], [4.5, 0.0], [1.5, 0.0], [1.5, 0.0], [-3.0, 0.0]])


def test_group_relative_by_hand() -> None:
    """1, 2 and 3 have deviation 1 (of n − 1), equal scores none; the penalty is the loss's."""
    scored = group([1.0, 2.0, 3.0, 5.0, 5.0, 5.0], [9.0] * 6)
    found = group_relative(scored, AdvantageSettings(kl=0.5, samples=3))
    unit = 1 / 1.0001
    near(found.policy_NT[:, 0], [-unit, 0.0, unit, 0.0, 0.0, 0.0])
    near(group_relative(scored, AdvantageSettings(samples=3, scale=False)).policy_NT[:3, 0], [-1.0, 0.0, 1.0])


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6), st.floats(-100, 100), st.booleans())
def test_a_constant_added_to_all_rewards_changes_no_comparison(scores: list[float], shift: float, scale: bool) -> None:
    shifted = [score + shift for score in scores]
    options = AdvantageSettings(kl=0.3, samples=3, scale=scale)
    k1 = [0.1, -0.2, 0.3, 0.0, 1.0, 2.0]
    exact = {"dtype": torch.float64}

    def of(values: list[float], method: str) -> torch.Tensor:
        scored = group(values, k1)
        return ADVANTAGES[method](
            Scored(torch.tensor(values, **exact), scored.old_NT, scored.reference_NT, scored.mask_NT), options
        ).policy_NT

    for method in ("rloo", "grpo"):
        torch.testing.assert_close(of(scores, method), of(shifted, method), rtol=1e-6, atol=1e-6)


def test_what_is_known_of_an_answer_that_did_not_end() -> None:
    scores, ended = torch.tensor([2.0, 2.0]), torch.tensor([True, False])
    near(without_end(scores, ended, "keep", -1.0), [2.0, 2.0])
    near(without_end(scores, ended, "replace", -1.0), [2.0, -1.0])
    near(without_end(scores, ended, "reduce", -1.0), [2.0, 1.0])


def drawn(seed: int, lengths: list[int], ended: list[bool]) -> Scored:
    """Random numbers everywhere, where there is no token too."""
    generator = torch.Generator().manual_seed(seed)
    n, width = len(lengths), max(lengths)
    old, reference, values = (torch.randn(n, w, generator=generator) for w in (width, width, width + 1))
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    behind = torch.tensor(lengths) + torch.tensor(ended)
    return Scored(
        torch.randn(n, generator=generator), old, reference, mask, values, torch.arange(width + 1) < behind[:, None]
    )


def plainly(scored: Scored, options: AdvantageSettings) -> tuple[list[list[float]], list[list[float]]]:
    """PPO's advantages and returns once more, one answer and one token at a time, in plain numbers."""
    rows = []
    for i in range(len(scored.scores_N)):
        tokens, states = int(scored.mask_NT[i].sum()), int(scored.value_mask_NU[i].sum())  # type: ignore[index]
        rewards = [-options.kl * (scored.old_NT[i, t] - scored.reference_NT[i, t]).item() for t in range(tokens)]
        rewards += [0.0] * (states - tokens)
        rewards[-1] += scored.scores_N[i].item()
        rows.append((tokens, rewards, scored.values_NU[i, :states].tolist()))  # type: ignore[index]
    if options.whiten_rewards:
        every = [reward for _, rewards, _ in rows for reward in rewards]
        mean = sum(every) / len(every)
        spread = math.sqrt(sum((r - mean) ** 2 for r in every) / len(every) + 1e-8)
        rows = [(n, [(r - mean) / spread + mean for r in rewards], values) for n, rewards, values in rows]
    advantages, targets = [], []
    for tokens, rewards, values in rows:
        own = [0.0] * len(rewards)
        for t in range(len(rewards)):
            for k in range(t, len(rewards)):
                after = values[k + 1] if k + 1 < len(values) else 0.0
                delta = rewards[k] + options.gamma * after - values[k]
                own[t] += (options.gamma * options.lam) ** (k - t) * delta
        targets.append([a + v for a, v in zip(own, values, strict=True)])
        advantages.append(own[:tokens])
    every = [a for own in advantages for a in own]
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every) + 1e-8)
    return [[(a - mean) / spread for a in own] for own in advantages], targets


@settings(max_examples=25)
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=5),
    st.sampled_from([(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (1.0, 1.0)]),
    st.booleans(),
)
def test_ppo_equals_a_plain_loop_over_answers_and_tokens(
    seed: int, shapes: list[tuple[int, bool]], decay: tuple[float, float], whiten: bool
) -> None:
    scored = drawn(seed, [n for n, _ in shapes], [ended for _, ended in shapes])
    options = AdvantageSettings(kl=0.2, gamma=decay[0], lam=decay[1], whiten_rewards=whiten)
    found, (advantages, targets) = gae(scored, options), plainly(scored, options)
    assert found.returns_NU is not None
    for i, (own, target) in enumerate(zip(advantages, targets, strict=True)):
        assert found.policy_NT[i, : len(own)].tolist() == pytest.approx(own, abs=1e-3)
        assert found.returns_NU[i, : len(target)].tolist() == pytest.approx(target, abs=1e-4)
        assert not found.policy_NT[i, len(own) :].any() and not found.returns_NU[i, len(target) :].any()


@pytest.mark.parametrize("method", sorted(ADVANTAGES))
def test_wider_padding_and_what_stands_in_it_change_nothing(method: str) -> None:
    scored = drawn(5, [2, 4, 3, 1], [True, False, True, True])
    assert scored.values_NU is not None and scored.value_mask_NU is not None
    wide = Scored(
        scored.scores_N,
        *(torch.nn.functional.pad(each, (0, 3), value=9.0) for each in (scored.old_NT, scored.reference_NT)),
        torch.nn.functional.pad(scored.mask_NT, (0, 3)),
        torch.nn.functional.pad(scored.values_NU, (0, 3), value=9.0),
        torch.nn.functional.pad(scored.value_mask_NU, (0, 3)),
    )
    options = AdvantageSettings(kl=0.2, samples=2)
    narrow_of, wide_of = (ADVANTAGES[method](each, options) for each in (scored, wide))
    assert_equal(narrow_of, wide_of)


def assert_equal(narrow: Advantages, wide: Advantages) -> None:
    width = narrow.policy_NT.shape[1]
    torch.testing.assert_close(wide.policy_NT[:, :width], narrow.policy_NT)
    assert not wide.policy_NT[:, width:].any()
    if narrow.returns_NU is not None and wide.returns_NU is not None:
        torch.testing.assert_close(wide.returns_NU[:, : width + 1], narrow.returns_NU)
