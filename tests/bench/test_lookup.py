"""Lookup and the one-hot product against float64 sums in NumPy, batches made by hand, and memory counted by hand."""

import math

import numpy as np
import pytest
import torch

from bench.measures import lookup
from bench.measures.lookup import WAYS, batch, lookup_equality, one_hot_bytes, peak_bytes, reader
from geomkit.errors import BackendUnavailableError, InvalidInputError


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_way_is_what_numpy_does(way, dtype):
    table, tokens, upstream = batch(50, 9, 400, seed=2, dtype=dtype)
    out, gradient = reader(way, table, tokens, upstream)()
    assert np.array_equal(out.numpy(), table.numpy()[tokens.numpy()])
    assert gradient.is_sparse == (way == "gather, sparse gradient")
    want, size = np.zeros((2, 50, 9))
    np.add.at(want, tokens.numpy(), upstream.numpy().astype(np.float64))
    np.add.at(size, tokens.numpy(), np.abs(upstream.numpy()).astype(np.float64))
    times = np.bincount(tokens.numpy(), minlength=50)[:, None]
    assert times.max() > 50
    assert (times == 1).any()
    # Beside float32, float64 sums are exact; beside float64 they err as much again.
    bound = times * np.finfo(dtype).eps * size
    assert (np.abs(gradient.to_dense().numpy() - want) <= bound).all()
    assert table.grad is None
    assert not table.requires_grad
    again, none = reader(way, table, tokens)()
    assert none is None
    assert torch.equal(again, out)


def test_equality_holds_with_repeats_and_without():
    found = lookup_equality(1024, 64, 4096, seed=0)
    assert found.holds
    assert found.output_difference == 0
    assert 0 < found.gradient_fraction <= 1
    assert 0 < found.gradient_difference < 1e-3
    assert found.gradient_equal_fraction < 1
    assert found.most_repeats > 100
    one = lookup_equality(4000, 8, 12, seed=0, repeats=0)
    assert (one.holds, one.most_repeats, one.gradient_fraction, one.gradient_equal_fraction) == (True, 1, 0, 1)
    assert (one.n_distinct, one.vocabulary, one.dim, one.dtype, one.device) == (12, 4000, 8, "float32", "cpu")
    assert lookup_equality(1, 1, 1, seed=0).holds
    assert str(found).count("\n") == len(found.to_dict()) - 1
    assert lookup_equality(60, 8, 900, seed=0) == lookup_equality(60, 8, 900, seed=0)


def compared(table, tokens, upstream, **changed):
    """Compare after what one way gave was changed."""
    found = {way: reader(way, table, tokens, upstream)() for way in WAYS}
    for way, change in changed.items():
        found[way] = change(*found[way])
    return lookup._compared(found, table, tokens, upstream)


def test_a_wrong_output_or_gradient_is_noticed():
    table, tokens, upstream = batch(20, 4, 100, seed=1)
    assert compared(table, tokens, upstream).holds

    def nudged(out, gradient):
        out = out.clone()
        out[3, 2] = torch.nextafter(out[3, 2], torch.tensor(9.0))
        return out, gradient

    wrong = compared(table, tokens, upstream, gather=nudged)
    assert not wrong.holds
    assert wrong.output_difference > 0
    # A word that is missing from the batch must have a gradient of 0; one that occurs once, its term to the bit.
    times = torch.bincount(tokens, minlength=20)
    for row in (int((times == 0).nonzero()[0]), int((times == 1).nonzero()[0]), int((times == 2).nonzero()[0])):

        def off(out, gradient, row=row):
            gradient = gradient.clone()
            gradient[row, 1] = torch.nextafter(gradient[row, 1], torch.tensor(9.0))
            return out, gradient

        spoilt = compared(table, tokens, upstream, gather=off)
        assert not spoilt.holds
        assert spoilt.gradient_fraction == math.inf
    often = int(times.argmax())

    def once_too_little(out, gradient):
        gradient = gradient.clone()
        gradient[often] -= upstream[tokens == often][0]
        return out, gradient

    assert not compared(table, tokens, upstream, gather=once_too_little).holds

    def not_a_number(out, gradient):
        return out, gradient * math.nan

    assert not compared(table, tokens, upstream, gather=not_a_number).holds


def test_the_bound_is_that_of_the_order_of_sums():
    # Terms of 1 and 2⁻²⁴: added to 1 one by one they vanish, added up first they do not.
    table, tokens = torch.zeros(2, 1), torch.zeros(9, dtype=torch.int64)
    upstream = torch.full((9, 1), 2.0**-24)
    upstream[0] = 1
    late = torch.tensor([[float(upstream.flip(0).cumsum(0)[-1])], [0.0]])
    early = torch.tensor([[1.0], [0.0]])
    assert late[0] > early[0]
    found = compared(
        table, tokens, upstream, gather=lambda out, _: (out, late), **{"one-hot": lambda out, _: (out, early)}
    )
    assert found.holds
    u = 2.0**-24
    gamma = 8 * u / (1 - 8 * u)
    assert found.gradient_fraction == pytest.approx(float(late[0] - early[0]) / (2 * gamma * (1 + 8 * u)))


def test_memory_is_what_must_be_held():
    table, tokens, upstream = batch(300, 16, 64, seed=0)
    rows, whole, one_hot = 64 * 16 * 4, 300 * 16 * 4, 64 * 300 * 4
    assert one_hot == one_hot_bytes(64, 300)
    forward = {way: peak_bytes(reader(way, table, tokens)) for way in WAYS}
    assert forward == {
        "gather": rows,
        "gather, sparse gradient": rows,
        "one-hot": rows + one_hot,
        "one-hot given": rows,
    }
    both = {way: peak_bytes(reader(way, table, tokens, upstream)) for way in WAYS}
    assert both["gather"] == both["one-hot given"] == rows + whole
    assert both["one-hot"] == rows + whole + one_hot
    assert both["gather, sparse gradient"] < 2 * rows
    kept = [torch.empty(1000)]
    assert peak_bytes(lambda: torch.empty(2000).sum()) in range(8000, 8200)
    assert peak_bytes(lambda: None) == 0
    assert peak_bytes(kept.clear) == 0


def test_bad_batches():
    table, tokens, upstream = batch(10, 4, 5, seed=0)
    with pytest.raises(InvalidInputError, match="way must be one of"):
        reader("hash", table, tokens)
    with pytest.raises(InvalidInputError, match=r"table must be a \(v, d\) floating tensor"):
        reader("gather", table[0], tokens)
    with pytest.raises(InvalidInputError, match="table must be"):
        reader("gather", table.long(), tokens)
    for bad in (tokens.int(), tokens[None], tokens.double()):
        with pytest.raises(InvalidInputError, match=r"tokens must be \(t,\) int64"):
            reader("gather", table, bad)
    for bad in (tokens[:0], tokens - 20, tokens + 10):
        with pytest.raises(InvalidInputError, match="row number from 0 to 9"):
            reader("gather", table, bad)
    for bad in (upstream[1:], upstream.double()):
        with pytest.raises(InvalidInputError, match="upstream must be"):
            reader("gather", table, tokens, bad)
    for name, bad in (("vocabulary", 0), ("dim", 1.5), ("n_tokens", True)):
        with pytest.raises(InvalidInputError, match=f"{name} must be a whole number"):
            lookup_equality(**({"vocabulary": 5, "dim": 5, "n_tokens": 5} | {name: bad}), seed=0)
    for bad in (-1, math.inf, math.nan, "1", True):
        with pytest.raises(InvalidInputError, match="repeats must be"):
            lookup_equality(5, 5, 5, seed=0, repeats=bad)
    with pytest.raises(InvalidInputError, match="dtype must be one of"):
        lookup_equality(5, 5, 5, seed=0, dtype="float16")
    with pytest.raises(InvalidInputError, match=r"take 4,000,000 bytes; budget is 3,999,999"):
        lookup_equality(1000, 2, 1000, seed=0, budget=3_999_999)
    assert lookup_equality(1000, 2, 1000, seed=0, budget=4_000_000).holds
    for bad in ("cuda:99", "nothing"):
        with pytest.raises(BackendUnavailableError, match="cannot be used here"):
            lookup_equality(5, 5, 5, seed=0, device=bad)
    with pytest.raises(InvalidInputError, match="device must be a CPU or a CUDA device"):
        peak_bytes(lambda: None, "meta")


def test_products_are_not_let_be_less_exact(monkeypatch):
    asked = []
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        read = lookup.reader
        monkeypatch.setattr(lookup, "reader", lambda *a: asked.append(torch.get_float32_matmul_precision()) or read(*a))
        assert lookup_equality(30, 4, 20, seed=0).holds
        assert asked == ["highest"] * len(WAYS)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_every_device_that_is_here_gives_the_same_and_its_peak(device):
    assert lookup_equality(500, 64, 800, seed=0, device=device).holds
    table, tokens, _ = batch(300, 16, 64, seed=0, device=device)
    assert peak_bytes(reader("one-hot", table, tokens), device) >= 64 * 300 * 4
