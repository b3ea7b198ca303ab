"""A step against one that torch takes by itself on dense activations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geomkit.errors import InvalidInputError
from geomkit.interpret.sae.learner import Learner, Settings, flops_per_token, learning_share

SETTINGS = Settings(n_features=24, k=3, batch=50, auxiliary_k=4, dead_after=100, seed=5)


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are done before a second thread has woken up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(seed, n=50, d=8):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32))


class Plain:
    """The same training by dense products and torch's own gradients."""

    def __init__(self, learner, settings):
        self.settings = settings
        self.w = [value.detach().clone().double().requires_grad_() for value in learner.learned.values()]
        self.adam = torch.optim.Adam(self.w, lr=settings.learning_rate)
        self.silent = torch.zeros(settings.n_features)

    def coded(self, pre, k):
        top = pre.topk(k, dim=1)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())

    def step(self, x, share):
        bias, encoder, encoder_bias, decoder = self.w
        x = x.double()
        pre = (x - bias) @ encoder.T + encoder_bias
        z = self.coded(pre, self.settings.k)
        residual = x - bias - z @ decoder
        loss = (residual**2).sum() / (x**2).sum()
        self.silent = torch.where((z > 0).any(0), 0, self.silent + len(x))
        dead = self.silent > self.settings.dead_after
        total = loss
        if dead.any():
            few = self.coded(pre.masked_fill(~dead, -torch.inf), min(self.settings.auxiliary_k, int(dead.sum())))
            fixed = residual.detach()
            total = loss + self.settings.auxiliary_weight * ((fixed - few @ decoder) ** 2).sum() / (fixed**2).sum()
        self.adam.zero_grad()
        total.backward()
        with torch.no_grad():
            along = (decoder.grad * decoder).sum(1, keepdim=True)
            decoder.grad -= along * decoder
            self.adam.param_groups[0]["lr"] = share * self.settings.learning_rate
            self.adam.step()
            decoder /= decoder.norm(dim=1, keepdim=True)
        return float(loss.detach()), float((z > 0).sum() / len(x)), int(dead.sum())


@pytest.mark.parametrize("k", [3, 16])
def test_steps_are_those_of_dense_gradients(k):
    settings = replace(SETTINGS, k=k)
    learner = Learner(settings, 8, "cpu")
    with torch.no_grad():
        learner.learned["encoder"][:9] *= 0.05  # silent at first, so that the auxiliary loss has something to revive
        learner.learned["encoder"][20:] = 0
        learner.learned["encoder_bias"][20:] = -0.01  # among the largest where few are above 0, and never active
    plain, dead = Plain(learner, settings), []
    for step in range(12):
        share = 0.3 + 0.05 * step
        got, want = learner.step(batch(step), share), plain.step(batch(step), share)
        assert got == pytest.approx(want[:2], rel=1e-4)
        dead.append(want[2])
        for value, right in zip(learner.learned.values(), plain.w, strict=True):
            np.testing.assert_allclose(value.detach().numpy(), right.detach().numpy(), rtol=1e-3, atol=2e-5)
    assert max(dead) >= (9 if k == 3 else 1)
    assert learner.dead_fraction() == dead[-1] / 24


def test_the_start_is_a_transpose_of_unit_rows_that_the_seed_draws():
    one, same, other = (Learner(Settings(n_features=24, k=3, seed=seed), 8, "cpu").weights() for seed in (5, 5, 6))
    assert np.array_equal(one["encoder"], one["decoder"])
    np.testing.assert_allclose(np.linalg.norm(one["decoder"], axis=1), 1, rtol=1e-6)
    assert not one["bias"].any()
    assert not one["encoder_bias"].any()
    assert np.array_equal(one["decoder"], same["decoder"])
    assert not np.array_equal(one["decoder"], other["decoder"])


def test_rows_of_the_decoder_stay_of_length_one():
    learner = Learner(SETTINGS, 8, "cpu")
    for step in range(5):
        learner.step(batch(step), 1.0)
    np.testing.assert_allclose(np.linalg.norm(learner.weights()["decoder"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("weight", "revived"), [(1 / 32, True), (0.0, False)])
def test_the_auxiliary_loss_revives_dead_features(weight, revived):
    settings = Settings(
        n_features=24, k=3, batch=50, auxiliary_k=12, auxiliary_weight=weight, dead_after=100, learning_rate=0.02
    )
    learner = Learner(settings, 8, "cpu")
    with torch.no_grad():
        learner.learned["encoder"][:12] *= 0.1
    for step in range(120):
        learner.step(batch(step), 1.0)
    assert (learner.dead_fraction() < 0.15) is revived
    assert (learner.dead_fraction() > 0.25) is not revived


def test_a_loss_that_is_not_finite_is_an_error():
    learner = Learner(Settings(n_features=24, k=3), 8, "cpu")
    with pytest.raises(InvalidInputError, match=r"learning_rate is 0\.004, at which the loss became nan"):
        learner.step(batch(0) * torch.inf, 1.0)


def test_the_learning_rate_rises_and_falls():
    shares = [learning_share(each / 1000) for each in range(1000)]
    assert shares[0] < 0.05
    assert max(shares) == shares[50] == shares[600] == 1
    assert shares == sorted(shares[:60]) + shares[60:]
    assert shares[-1] == pytest.approx(0.0025)
    assert min(shares) > 0


def test_operations_of_a_token():
    settings = Settings(n_features=100, k=7, batch=10)
    assert flops_per_token(30, settings) == 2 * 30 * 100 + 10 * 30 * 7 + 28 * 30 * 100 / 10


def test_settings_that_cannot_be_used():
    for bad in ({"n_features": 0}, {"k": 2305}, {"k": 0}, {"epochs": 1.5}, {"batch": True}, {"learning_rate": 0.0},
                {"learning_rate": np.nan}, {"auxiliary_weight": -1.0}, {"seed": -1}, {"dead_after": 0}):  # fmt: skip
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            Settings(**bad)
    with pytest.raises(InvalidInputError, match="device is 'nowhere'"):
        Learner(SETTINGS, 8, "nowhere")
