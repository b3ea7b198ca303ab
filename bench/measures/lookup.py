"""Lookup against one-hot: two ways to read rows of an embedding table, proven equal, outputs and gradients."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geomkit.core.result import Result
from geomkit.core.validation import check_choice, check_number, check_whole
from geomkit.errors import BackendUnavailableError, InvalidInputError

if TYPE_CHECKING:
    import torch

__all__ = ["PASSES", "WAYS", "LookupEquality", "batch", "lookup_equality", "one_hot_bytes", "peak_bytes", "reader"]

WAYS = ("gather", "gather, sparse gradient", "one-hot", "one-hot given")
"""Ways to read rows. ``"gather"`` is what `torch.nn.Embedding` does; ``"one-hot"`` makes the one-hot rows and
multiplies them with the table; ``"one-hot given"`` has them ready, and only multiplies."""

PASSES = ("forward", "forward and backward")
"""The second leaves the gradient of the table too."""


@dataclass(frozen=True, slots=True)
class LookupEquality(Result):
    """How far lookup and the one-hot product are from each other on one batch."""

    holds: bool
    """All outputs are equal, and all gradients within their bound."""
    output_difference: float
    """Largest difference of an output from the one-hot product's: 0 where the claim holds, for a product with a one-hot
    row adds zeros to one entry of the table."""
    gradient_difference: float
    """Largest difference of a gradient, of any way, from the one-hot product's."""
    gradient_fraction: float
    """The largest share of its bound that a difference takes up, in [0, 1] where the claim holds. A word that occurs m
    times has a gradient of m terms, added up in some order: two orders differ by at most 2γ(m - 1) times the sum of the
    terms' magnitudes, γ(m) = m u/(1 - m u). For m = 1 and m = 2 that is made 0, since those sums have no orders that
    differ."""
    gradient_equal_fraction: float
    """Share of the gradient's entries of words in the batch that are equal to the bit in all ways."""
    n_tokens: int
    n_distinct: int
    """Different tokens in the batch."""
    most_repeats: int
    """Occurrences of the most frequent of them."""
    vocabulary: int
    dim: int
    dtype: str
    device: str


def reader(
    way: str, table: "torch.Tensor", tokens: "torch.Tensor", upstream: "torch.Tensor | None" = None
) -> Callable[[], tuple["torch.Tensor", "torch.Tensor | None"]]:
    """Return a call that reads rows of a table in one way, and where asked the gradient of the table.

    Parameters
    ----------
    way : {"gather", "gather, sparse gradient", "one-hot", "one-hot given"}
    table : (v, d) floating tensor
        It is not changed, and no gradient is left on it.
    tokens : (t,) int64 tensor
        Row numbers, on the table's device.
    upstream : (t, d) tensor, optional
        Gradient of the outputs; without one, there is a forward pass alone.

    Returns
    -------
    callable
        Gives the (t, d) outputs and the (v, d) gradient or None. The gradient is sparse, with an entry a token that is
        not yet added up, for ``"gather, sparse gradient"``.

    Raises
    ------
    InvalidInputError
        `way` is none of these; shapes, dtypes, devices or row numbers do not fit.

    Notes
    -----
    A gather reads O(t d) numbers; its dense gradient is O(v d) for zeros and O(t d) for sums, a sparse one O(t d). The
    one-hot product is O(t v d) forward, as much again backward, and holds t × v numbers. On a GPU float32 products must
    not be allowed TF32 or less (`torch.set_float32_matmul_precision`), in which the table would be rounded.
    """
    import torch
    from torch.nn import functional

    check_choice(way, "way", WAYS)
    _check(table, tokens, upstream)
    leaf = table.detach().requires_grad_(upstream is not None)
    given = _one_hot(tokens, table) if way == "one-hot given" else None

    def read() -> torch.Tensor:
        if way.startswith("gather"):
            return functional.embedding(tokens, leaf, sparse=way != "gather")
        return (_one_hot(tokens, table) if given is None else given) @ leaf

    def call() -> tuple[torch.Tensor, torch.Tensor | None]:
        if upstream is None:
            with torch.no_grad():
                return read(), None
        out = read()
        (gradient,) = torch.autograd.grad(out, leaf, upstream)
        return out.detach(), gradient

    return call


def _one_hot(tokens: "torch.Tensor", table: "torch.Tensor") -> "torch.Tensor":
    rows = table.new_zeros((len(tokens), len(table)))
    return rows.scatter_(1, tokens[:, None], 1.0)


def one_hot_bytes(n_tokens: int, vocabulary: int, itemsize: int = 4) -> int:
    """Bytes of the one-hot rows of a batch, at so many bytes a number."""
    return int(n_tokens) * int(vocabulary) * itemsize


def lookup_equality(
    vocabulary: int,
    dim: int,
    n_tokens: int,
    *,
    seed: int,
    dtype: str = "float32",
    device: str | None = None,
    repeats: float = 1.0,
    budget: int = 1 << 28,
) -> LookupEquality:
    """Read rows of a random table in all ways, forward and backward, and compare outputs and gradients.

    Parameters
    ----------
    vocabulary, dim : int
        Shape of the table, at least 1 each.
    n_tokens : int
        Batch, at least 1.
    seed : int
        Draws table, tokens and gradients of the outputs, from normal and Zipf's distribution.
    dtype : {"float32", "float64"}
    device : str, optional
        ``"cpu"`` by default, or as torch names them.
    repeats : float
        Zipf's exponent, at least 0: 0 draws all tokens alike, and 1 as words occur in text, so that some repeat often.
    budget : int
        Bytes that one-hot rows may take; more are refused.

    Returns
    -------
    LookupEquality

    Raises
    ------
    InvalidInputError
        An argument is out of range, or the one-hot rows would take more than `budget`.
    BackendUnavailableError
        torch or the device is missing.
    """
    torch = _torch()
    check_choice(dtype, "dtype", ("float32", "float64"))
    table, tokens, upstream = batch(vocabulary, dim, n_tokens, seed=seed, dtype=dtype, device=device, repeats=repeats)
    need = one_hot_bytes(n_tokens, vocabulary, table.dtype.itemsize)
    if need > budget:
        msg = f"one-hot rows of {n_tokens} tokens and {vocabulary} words take {need:,} bytes; budget is {budget:,}"
        raise InvalidInputError(msg)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        found = {way: reader(way, table, tokens, upstream)() for way in WAYS}
    finally:
        torch.set_float32_matmul_precision(before)
    return _compared(found, table, tokens, upstream)


def batch(
    vocabulary: int,
    dim: int,
    n_tokens: int,
    *,
    seed: int,
    dtype: str = "float32",
    device: str | None = None,
    repeats: float = 1.0,
) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]:
    """Draw a table, tokens, and a gradient of the outputs, as for `lookup_equality`: the same on every device."""
    torch = _torch()
    for name, value in (("vocabulary", vocabulary), ("dim", dim), ("n_tokens", n_tokens)):
        check_whole(value, name, 1)
    check_number(repeats, "repeats", 0)
    rng = np.random.default_rng(seed)
    share = np.arange(1, vocabulary + 1, dtype=np.float64) ** -float(repeats)
    drawn = rng.choice(vocabulary, int(n_tokens), p=share / share.sum())
    arrays = (rng.standard_normal((vocabulary, dim)), drawn, rng.standard_normal((int(n_tokens), dim)))
    kinds = (getattr(torch, dtype), torch.int64, getattr(torch, dtype))
    try:
        table, tokens, upstream = (
            torch.as_tensor(each).to(device=device or "cpu", dtype=kind)
            for each, kind in zip(arrays, kinds, strict=True)
        )
    except (RuntimeError, AssertionError) as why:
        msg = f"device {device!r} cannot be used here: {str(why).splitlines()[0]}"
        raise BackendUnavailableError(msg) from why
    return table, tokens, upstream


def _compared(
    found: dict[str, tuple["torch.Tensor", "torch.Tensor | None"]],
    table: "torch.Tensor",
    tokens: "torch.Tensor",
    upstream: "torch.Tensor",
) -> LookupEquality:
    torch = _torch()
    outputs = {way: out for way, (out, _) in found.items()}
    dense: dict[str, Any] = {}
    for way, (_, gradient) in found.items():
        assert gradient is not None
        dense[way] = gradient.to_dense() if gradient.is_sparse else gradient
    times = torch.bincount(tokens, minlength=len(table))
    unit = torch.finfo(table.dtype).eps / 2
    steps = torch.where(times > 2, times - 1, 0).to(torch.float64) * unit
    weight = torch.zeros(table.shape, dtype=torch.float64, device=table.device)
    weight.index_add_(0, tokens, upstream.double().abs())
    bound = 2 * (steps / (1 - steps))[:, None] * weight
    reference = dense["one-hot"]
    output = max(float((out - outputs["one-hot"]).abs().max()) for out in outputs.values())
    equal = torch.stack([each == reference for each in dense.values()]).all(dim=0)
    apart = torch.stack([(each.double() - reference.double()).abs() for each in dense.values()]).amax(dim=0)
    # Where nothing may differ, a difference is infinitely too large; what is not finite leaves a share that is NaN.
    share = torch.where(apart == 0, 0.0, apart / bound)
    exact = all(bool(torch.equal(out, outputs["one-hot"])) for out in outputs.values())
    return LookupEquality(
        holds=exact and bool((share <= 1).all()),
        output_difference=output,
        gradient_difference=float(apart.max()),
        gradient_fraction=float(share.max()),
        gradient_equal_fraction=float(equal[times > 0].double().mean()),
        n_tokens=len(tokens),
        n_distinct=int((times > 0).sum()),
        most_repeats=int(times.max()),
        vocabulary=table.shape[0],
        dim=table.shape[1],
        dtype=str(table.dtype).removeprefix("torch."),
        device=str(table.device),
    )


def peak_bytes(call: Callable[[], object], device: str | None = None) -> int:
    """Most bytes of tensors that a call holds at once beyond what was there before, its results included.

    Parameters
    ----------
    call : callable
        Such as `reader` returns.
    device : str, optional
        Where it runs: ``"cpu"`` by default.

    Returns
    -------
    int
        Counted from torch's own record of every allocation: exact, and the same in every run, on the CPU; on a GPU from
        the allocator's high-water mark, which rounds blocks up.
    """
    torch = _torch()
    where = torch.device(device or "cpu")
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        call()
        torch.cuda.synchronize(where)
        return int(torch.cuda.max_memory_allocated(where) - before)
    if where.type != "cpu":
        msg = f"device must be a CPU or a CUDA device for memory to be counted; got {device!r}"
        raise InvalidInputError(msg)
    # Else the profiler writes two lines of its own to standard error each time; it reads this when it first starts.
    os.environ.setdefault("KINETO_LOG_LEVEL", "7")
    from torch.autograd.profiler import profile

    with profile(profile_memory=True) as seen:
        kept = call()
    del kept
    events: Any = seen.kineto_results
    moves = [(each.start_ns(), each.nbytes()) for each in events.events() if each.name() == "[memory]"]
    changes = [by for _, by in sorted(moves, key=lambda each: each[0])]
    return int(max(np.cumsum(changes).max(), 0)) if changes else 0


def _check(table: "torch.Tensor", tokens: "torch.Tensor", upstream: "torch.Tensor | None") -> None:
    torch = _torch()
    if table.ndim != 2 or not table.is_floating_point():
        msg = f"table must be a (v, d) floating tensor; got {table.dtype} of shape {tuple(table.shape)}"
        raise InvalidInputError(msg)
    if tokens.ndim != 1 or tokens.dtype != torch.int64 or tokens.device != table.device:
        msg = (
            f"tokens must be (t,) int64 on {table.device}; got {tokens.dtype} {tuple(tokens.shape)} on {tokens.device}"
        )
        raise InvalidInputError(msg)
    if not len(tokens) or int(tokens.min()) < 0 or int(tokens.max()) >= len(table):
        msg = f"tokens must be at least one row number from 0 to {len(table) - 1}"
        raise InvalidInputError(msg)
    want = (len(tokens), table.shape[1])
    if upstream is not None and (tuple(upstream.shape), upstream.dtype, upstream.device) != (
        want,
        table.dtype,
        table.device,
    ):
        msg = f"upstream must be {table.dtype} of shape {want} on {table.device}; got {tuple(upstream.shape)}"
        raise InvalidInputError(msg)


def _torch() -> Any:
    try:
        import torch
    except ImportError as why:
        msg = f"torch cannot be imported ({why}); install it: pip install 'geomkit[torch]'"
        raise BackendUnavailableError(msg) from why
    return torch
