"""The parts of a causal language model that a lens reads through, found by running it and asserted against its logits.

Names are not trusted. The blocks are the list of modules whose outputs are the hidden states; what follows the last
block (a final norm, in some models a projection) is what the base model calls after it, in that order; the head is the
library's own accessor. A model that these do not give the logits of is refused.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from geomkit.core.optional import require
from geomkit.datasets.states import running
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["CausalParts", "context_length", "parts_of"]

_PROBE = 12  # tokens that a model is tried with


@dataclass(frozen=True, slots=True)
class CausalParts:
    """What a causal model is made of, as far as a lens needs it."""

    model: Any  # transformers.PreTrainedModel
    blocks: tuple[Any, ...]
    """In order. States of layer k, counted from 1, are what ``blocks[k - 1]`` puts out."""
    tail: tuple[Any, ...]
    """What turns the last block's output into what the head reads: a final norm, some projection, or nothing."""
    head: Any
    scale: float
    """Logits are so many times what the head gives (Cohere, Granite); 1 in most models."""
    softcap: float | None
    """Logits z are then ``softcap * tanh(z / softcap)`` (Gemma)."""

    @property
    def n_layers(self) -> int:
        """Blocks, and the number of the last layer."""
        return len(self.blocks)

    @property
    def vocabulary(self) -> int:
        """Rows of the unembedding."""
        return int(self.head.weight.shape[0])

    def normed(self, states: "Tensor", layer: int) -> "Tensor":
        """Apply the final norm to states of a layer; those of the last one have it."""
        if layer < self.n_layers:
            for module in self.tail:
                states = module(states)
        return states

    def unembed(self, normed: "Tensor") -> "Tensor":
        """Return the logits that the model's head gives to states with the final norm applied, (..., vocabulary)."""
        logits: Tensor = self.head(normed)
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def logits(self, states: "Tensor", layer: int) -> "Tensor":
        """Return what the model would say if a layer were its last, (..., vocabulary)."""
        return self.unembed(self.normed(states, layer))


def parts_of(model: Any) -> CausalParts:
    """Find blocks, final norm and head of a causal model, and assert that they give its logits.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With its head, such as `AutoModelForCausalLM` loads.

    Returns
    -------
    CausalParts

    Raises
    ------
    InvalidInputError
        The model has no head or no list of blocks; what comes after a token changes what it says at it, as in an
        encoder; or its last block, read through what follows it and through the head, does not give its logits.

    Notes
    -----
    Three forward passes over twelve tokens. The tolerance is what rounding explains: 8 (d + 16) u times the largest
    norm of a state and of a row of the head, u being the rounding of the model's numbers.
    """
    torch = require("torch")
    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise _unsupported(name, "it is an encoder with a decoder, not a causal language model")
    head = model.get_output_embeddings()
    if head is None:
        raise _unsupported(name, "it has no output embeddings; load it as a causal language model")
    ids = (7 * torch.arange(_PROBE) + 1) % min(_vocabulary(model), head.weight.shape[0])
    ids = ids[None].to(head.weight.device)
    blocks = _blocks(model, name)
    with running(model), torch.inference_mode():
        last, raw, tail = _watched(model, blocks, ids)
        logits = model(input_ids=ids, use_cache=False).logits
        other = ids.clone()
        other[0, -1] = (other[0, -1] + 1) % _vocabulary(model)
        changed = model(input_ids=other, use_cache=False).logits
        parts = CausalParts(model, blocks, tail, head, *_after_head(model.config))
        allowed = _allowed(last, head.weight)
        if not _close(logits[:, :-1], changed[:, :-1], allowed * abs(parts.scale)):
            raise _unsupported(name, "what comes after a token changes what it says there; it is an encoder")
        try:
            rebuilt = parts.normed(raw, 0)
            lens = parts.unembed(rebuilt)
        except (RuntimeError, TypeError, ValueError) as why:
            raise _unsupported(name, f"its final norm and head do not apply to its last block: {why}") from why
    if not _close(rebuilt, last, _rounding(last) * float(last.abs().max())):
        modules = ", ".join(type(module).__name__ for module in tail) or "nothing"
        raise _unsupported(name, f"what its last block puts out does not become its last state through {modules}")
    if not _close(lens, logits, allowed * abs(parts.scale)):
        worst = "another shape" if lens.shape != logits.shape else f"{float((lens - logits).abs().max()):.3g} away"
        raise _unsupported(name, f"its last layer read through its head is not its logits but {worst}")
    return parts


def context_length(model: Any) -> int | None:
    """Return how many tokens a model can read, None where it says no limit."""
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def _unsupported(name: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"model {name} cannot be read by a lens: {why}")


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _blocks(model: Any, name: str) -> tuple[Any, ...]:
    """Return the outermost list of as many modules as the configuration counts layers."""
    torch = require("torch")
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = {
        path: module
        for path, module in model.base_model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == count
    }
    outer = [path for path in lists if not any(path.startswith(f"{other}.") for other in lists)]
    if len(outer) != 1:
        raise _unsupported(name, f"it has {len(outer)} lists of {count} blocks, wanted one")
    return tuple(lists[outer[0]])


def _watched(model: Any, blocks: tuple[Any, ...], ids: Any) -> tuple[Any, Any, tuple[Any, ...]]:
    """Return the last state, what the last block puts out, and the modules that ran between the two, in order."""
    seen: list[Any] = []
    after: list[Any] = []

    def last_block(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    def later(module: Any, _inputs: Any) -> None:
        # What begins after the last block and is not inside another module that did.
        if seen and not any(module in set(outer.modules()) for outer in after):
            after.append(module)

    base = model.base_model
    hooks = [blocks[-1].register_forward_hook(last_block)]
    hooks += [module.register_forward_pre_hook(later) for module in base.modules()]
    try:
        last = base(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) != 1:
        raise _unsupported(type(model).__name__, f"its last block ran {len(seen)} times in one pass, wanted once")
    return last, seen[0], tuple(after)


def _after_head(config: Any) -> tuple[float, float | None]:
    """Return by how much logits are multiplied and how they are capped, as configurations say it."""
    text: Mapping[str, Any] = config.get_text_config().to_dict()
    scale = 1.0
    if isinstance(text.get("logit_scale"), (int, float)):
        scale *= float(text["logit_scale"])
    if isinstance(text.get("logits_scaling"), (int, float)):
        scale /= float(text["logits_scaling"])
    cap = text.get("final_logit_softcapping")
    return scale, float(cap) if cap else None


def _rounding(states: Any) -> float:
    torch = require("torch")
    return float(8 * (states.shape[-1] + 16) * torch.finfo(states.dtype).eps / 2)


def _allowed(last: Any, weight: Any) -> float:
    """How far rounding may take a product of a state with a row of the head."""
    return _rounding(last) * float(last.norm(dim=-1).max()) * float(weight.norm(dim=-1).max())


def _close(a: Any, b: Any, allowed: float) -> bool:
    return bool(a.shape == b.shape and ((a - b).abs().max() <= allowed).item())
