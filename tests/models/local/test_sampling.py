"""Drawing tokens: the distribution is the model's, and the draw is a row's own."""

import torch

from cai.models.local.sampling import draw, inverse_cdf, nucleus
from cai.models.protocol import Sampling
from cai.seeds import uniform

PROBS = torch.tensor([[0.1, 0.4, 0.0, 0.3, 0.2]], dtype=torch.float64)


def test_each_uniform_falls_into_the_share_of_its_token():
    """Shares in id order: [0, .1) is 0, [.1, .5) is 1, token 2 has none, [.5, .8) is 3, [.8, 1) is 4."""
    uniforms = torch.tensor([0.0, 0.099, 0.101, 0.499, 0.501, 0.799, 0.801, 1 - 2**-53], dtype=torch.float64)
    drawn = inverse_cdf(PROBS.expand(8, 5), uniforms)
    assert drawn.tolist() == [0, 0, 1, 1, 3, 3, 4, 4]


def test_the_nucleus_is_the_smallest_set_of_likeliest_tokens_that_holds_top_p():
    """.4 alone holds .39; .6 needs .4 + .3; .75 needs .4 + .3 + .2; 1 keeps everything."""
    top_p = torch.tensor([0.39, 0.6, 0.75, 1.0], dtype=torch.float64)
    kept = nucleus(PROBS.expand(4, 5), top_p) > 0
    assert kept.int().tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 1], [1, 1, 0, 1, 1]]


def test_shares_of_many_draws_approach_the_probabilities_at_the_temperature():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    drawn = draw(logits, [Sampling(temperature=2.0)] * 20_000, list(range(20_000)), [3] * 20_000)
    shares = torch.bincount(drawn, minlength=3) / 20_000
    assert torch.allclose(shares, torch.softmax(torch.tensor([0.0, 0.5, 1.0]), 0), atol=0.015)


def test_temperature_zero_takes_the_likeliest_in_a_mixed_batch_and_the_lowest_id_of_equals():
    logits = torch.tensor([[0.0, 5.0, 5.0], [1.0, 1.1, 0.9], [9.0, 0.0, 0.0]])
    samplings = [Sampling(temperature=0), Sampling(temperature=50.0), Sampling(temperature=0)]
    drawn = {tuple(draw(logits, samplings, [1, seed, 1], [0, 0, 0]).tolist()) for seed in range(60)}
    assert drawn == {(1, 0, 0), (1, 1, 0), (1, 2, 0)}


def test_a_draw_depends_on_seed_and_position_and_nothing_else():
    logits = torch.zeros(4, 1000)
    samplings = [Sampling()] * 4
    drawn = draw(logits, samplings, [5, 6, 5, 7], [2, 2, 2, 2])
    assert drawn[0] == drawn[2] == int(uniform(5, 2) * 1000)
    assert drawn[0] != drawn[1]
    assert draw(logits[:1], samplings[:1], [5], [3])[0] == int(uniform(5, 3) * 1000)
