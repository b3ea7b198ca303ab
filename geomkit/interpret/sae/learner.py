"""One step of training a TopK sparse autoencoder: Adam, unit rows of the decoder, and dead features revived.

As Gao et al. (2024) do it: the encoder starts as the decoder's transpose; features that have not fired for some time
learn to explain what the others leave (AuxK); gradients along the rows of the decoder are taken out, and the rows
brought back to length 1 after each step. Only the features that are active at a token have a gradient there, so a step
costs one dense product, the encoder's, and sums over active features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.core.validation import check_number, check_whole
from geomkit.errors import InvalidInputError
from geomkit.interpret.adam_state import restore_learned, state_of, state_shapes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Learner", "Settings", "flops_per_token", "learning_share"]

_WARM_UP = 0.05  # share of the steps in which the learning rate rises
_DECAY = 0.4  # share of the steps, the last ones, in which it falls


@dataclass(frozen=True, slots=True)
class Settings:
    """How an autoencoder is trained."""

    n_features: int = 2304
    k: int = 32
    """Features that may be active at a token."""
    epochs: int = 1
    batch: int = 1024
    """Tokens of a step."""
    learning_rate: float = 4e-3
    """Of Adam; it rises at the start, and falls linearly towards 0 at the end."""
    auxiliary_k: int = 256
    """Dead features that may be active at a token in the auxiliary loss."""
    auxiliary_weight: float = 1 / 32
    dead_after: int = 50_000
    """Tokens without firing after which a feature takes part in the auxiliary loss."""
    seed: int = 0
    """Draws the first weights and the order of the tokens."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be used."""
        for name in ("n_features", "epochs", "batch", "auxiliary_k", "dead_after"):
            check_whole(getattr(self, name), name, 1)
        check_whole(self.k, "k", 1, self.n_features, high_is="n_features")
        check_number(self.learning_rate, "learning_rate", 0, open_low=True)
        check_number(self.auxiliary_weight, "auxiliary_weight", 0)
        check_whole(self.seed, "seed", 0)


def flops_per_token(d: int, settings: Settings) -> float:
    """Return the multiplications and additions that a token takes in a step, without the auxiliary loss.

    One product with the whole encoder, ``2 d n_features``; four sums over active features (decoding, and the gradients
    of activations, decoder and encoder; the last takes two), ``10 d k``; Adam, some 14 for each weight in each step.
    """
    return 2.0 * d * settings.n_features + 10.0 * d * settings.k + 28.0 * d * settings.n_features / settings.batch


class Learner:
    """Weights in training, Adam, and when each feature last fired. The bias is in units of scaled, centred states."""

    def __init__(self, settings: Settings, d: int, device: str) -> None:
        torch = require("torch")
        self.settings = settings
        drawn = torch.randn((settings.n_features, d), generator=torch.Generator().manual_seed(settings.seed))
        decoder = torch.nn.functional.normalize(drawn, dim=1)
        first = {
            "bias": torch.zeros(d), "encoder": decoder.clone(), "encoder_bias": torch.zeros(settings.n_features),
            "decoder": decoder,
        }  # fmt: skip
        try:
            self.device = torch.device(device)
            self.learned = {name: value.to(self.device).requires_grad_() for name, value in first.items()}
        except (RuntimeError, AssertionError) as why:
            msg = f"device is {device!r}, which cannot be used: {next(iter(str(why).splitlines()), '')}"
            raise InvalidInputError(msg) from why
        self.adam = torch.optim.Adam(list(self.learned.values()), lr=settings.learning_rate, eps=1e-8, fused=True)
        # Tokens since each feature last fired.
        self.silent = torch.zeros(settings.n_features, dtype=torch.int64, device=self.device)

    def step(self, x: "Tensor", share: float) -> tuple[float, float]:
        """Move by one batch at a share of the learning rate; return its unexplained share and its L0 before."""
        torch = require("torch")
        bias, encoder, encoder_bias, decoder = self.learned.values()
        # E (x - b) + e, where only the constant part has a dense gradient.
        shift = encoder_bias - encoder @ bias
        with torch.no_grad():
            scores = torch.addmm(shift, x, encoder.T)
            at = scores.topk(self.settings.k, dim=1, sorted=False).indices
        values = _chosen(x, encoder, shift, at, scores).relu()
        residual = x - bias - _summed(at, values, decoder)
        loss = residual.square().sum() / x.square().sum()
        total = loss
        with torch.no_grad():
            active = values > 0
            self.silent += len(x)
            self.silent[at[active]] = 0
            dead = (self.silent > self.settings.dead_after).nonzero().squeeze(1)
        if len(dead) and self.settings.auxiliary_weight:
            total = total + self.settings.auxiliary_weight * self._revival(x, residual.detach(), shift, scores, dead)
        self.adam.zero_grad(set_to_none=True)
        total.backward()
        with torch.no_grad():
            decoder.grad -= (decoder.grad * decoder).sum(dim=1, keepdim=True) * decoder
            for group in self.adam.param_groups:
                group["lr"] = self.settings.learning_rate * share
            self.adam.step()
            torch.nn.functional.normalize(decoder, dim=1, out=decoder)
        unexplained = float(loss.detach())
        if not np.isfinite(unexplained):
            msg = f"learning_rate is {self.settings.learning_rate}, at which the loss became {unexplained}; lower it"
            raise InvalidInputError(msg)
        return unexplained, float(active.sum() / len(x))

    def _revival(self, x: "Tensor", residual: "Tensor", shift: "Tensor", scores: "Tensor", dead: "Tensor") -> "Tensor":
        """Return how much of the residual dead features leave when they alone explain it: the AuxK loss.

        A feature whose scores are all below 0 has no gradient here either, and stays dead.
        """
        among = scores[:, dead].topk(min(self.settings.auxiliary_k, len(dead)), dim=1, sorted=False).indices
        at = dead[among]
        values = _chosen(x, self.learned["encoder"], shift, at, scores).relu()
        left = residual - _summed(at, values, self.learned["decoder"])
        loss: Tensor = left.square().sum() / residual.square().sum()
        return loss

    def dead_fraction(self) -> float:
        """Share of the features that did not fire for `Settings.dead_after` tokens."""
        return float((self.silent > self.settings.dead_after).double().mean())

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Return copies of the weights."""
        return {name: value.detach().cpu().numpy().copy() for name, value in self.learned.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on, but for its number."""
        return state_of(self.learned, {"silent": self.silent}, self.adam)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the state."""
        return state_shapes(self.learned, {"silent": self.silent})

    def restore(self, stored: Mapping[str, NDArray[Any]], done: int) -> None:
        """Go back to a state."""
        self.silent = require("torch").from_numpy(stored["silent"]).to(self.device)
        restore_learned(self.learned, self.adam, stored, done)


def _summed(at: "Tensor", values: "Tensor", table: "Tensor") -> "Tensor":
    """Return the sum of chosen rows of a table, each times its value, (n, d)."""
    out: Tensor = require("torch").nn.functional.embedding_bag(at, table, per_sample_weights=values, mode="sum")
    return out


def _chosen(x: "Tensor", encoder: "Tensor", shift: "Tensor", at: "Tensor", scores: "Tensor") -> "Tensor":
    """Return chosen entries of ``x @ encoder.T + shift``, whose products are in `scores` already, with gradients.

    The gradient of the encoder is a sum over the chosen entries alone; through the dense product it would be another
    dense product of the same size.
    """
    torch = require("torch")

    class Chosen(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(context: Any, encoder: Any, _shift: Any) -> Any:
            context.shape = encoder.shape
            return scores.gather(1, at)

        @staticmethod
        def backward(context: Any, slope: Any) -> Any:
            with torch.enable_grad():
                # d/dE of Σ slope (E x) over the chosen: rows of a table that are summed with weights, read backwards.
                table = torch.zeros(context.shape, device=x.device, requires_grad=True)
                (by_encoder,) = torch.autograd.grad(_summed(at, slope.contiguous(), table), table, x)
            by_shift = torch.zeros(context.shape[0], device=x.device).index_add_(0, at.flatten(), slope.flatten())
            return by_encoder, by_shift

    out: Tensor = Chosen.apply(encoder, shift)
    return out


def learning_share(progress: float) -> float:
    """Share of the learning rate after a share of the steps."""
    return min(1.0, (progress + 1e-3) / _WARM_UP, (1 - progress) / _DECAY)
