"""Claims that are read from the tables of the studies on meaning, on tables that are made here."""

import pandas as pd
import pytest

from bench.studies.verdicts import meaning
from tests.bench.answering import context_of


@pytest.fixture
def context(tmp_path):
    return context_of("claims", tmp_path)


def write(context, name, rows):
    pd.DataFrame(rows).to_csv(context.out / name, index=False)


def lists_match(found):
    return len(found.figure) == len(found.null) == len(found.interval)


def probed(source, low, fewest, fewest_random, corpus="bbc"):
    return {
        "corpus": corpus, "source": source, "d": 300, "accuracy": low + 0.1, "ci_low": low, "ci_high": low + 0.2,
        "majority": 0.2, "shuffled_max": 0.3, "random_ci_high": 0.25, "fewest": fewest, "fewest_random": fewest_random,
        "twonn": 9.0,
    }  # fmt: skip


@pytest.mark.parametrize(("low", "verdict"), [(0.31, "holds: above every null in 3 of 3"), (0.29, "fails for some")])
def test_separable_is_above_every_null(context, low, verdict):
    rows = [
        probed("minilm-384", 0.8, 8, 64),
        probed("lsa-300", low, 32, 16, "newsgroups"),
        probed("glove-50", 0.9, 20, 21),
    ]
    write(context, meaning.SEPARABILITY, [*rows, {"source": "mpnet-768", "corpus": "bbc"}])
    found = meaning.separable(context)
    assert found.verdict.startswith(verdict)
    assert "random ones suffice in 2, in the median 20, where TwoNN says 9" in found.verdict
    assert found.figure[1:] == ["minilm-384 bbc 0.900 (8 of 300)", f"lsa-300 newsgroups {low + 0.1:.3f} (32 of 300)"]
    assert found.null[1] == "0.300 (64)"
    assert lists_match(found)


@pytest.mark.parametrize(("stranger", "verdict"), [(0.4, "fails"), (0.04, "holds in part")])
def test_a_trained_stranger_that_reads_refutes_the_only_decoder(context, stranger, verdict):
    one = {"target": "same", "high": 1.0, "most_frequent": 0.05}
    readers = {"logit lens": 0.7, "trained linear map": 0.9, "rotated table": 0.0}
    rows = [
        one | {"layer": at, "reader": name, "top1": low + 0.01, "low": low}
        for at in (0, 12)
        for name, low in readers.items()
    ]
    rows += [
        one | {"layer": at, "reader": "Word2Vec, trained linear map", "top1": 0.5, "low": low}
        for at, low in ((0, 0.4), (12, stranger))
    ]
    rows += [rows[0] | {"target": "next", "top1": 0.0}, rows[0] | {"reader": "nearest input embedding"}]
    write(context, meaning.TOKENS, rows)
    found = meaning.understood(context)
    assert found.verdict.startswith(verdict)
    assert "rotated table at 0 of 2 layers" in found.verdict
    assert "logit lens at 2 of 2 layers" in found.verdict
    assert len(found.figure) == 1 + 8
    assert lists_match(found)


@pytest.mark.parametrize(("most", "verdict"), [(64, "holds: half of what 1,200 to 2,304"), (65, "holds in part")])
def test_a_few_bytes_are_at_most_64(context, most, verdict):
    one = {"what": "neighbours", "low": 4.0, "high": float("inf"), "floor": 0.01}
    sizes = {"a": (8, 1200), "b": (most, 2304)}
    rows = [one | {"space": name, "bytes": few, "float32_bytes": all_} for name, (few, all_) in sizes.items()]
    write(context, meaning.BYTES, rows)
    found = meaning.lossy(context)
    assert found.verdict.startswith(verdict)
    assert found.verdict.endswith(f"in 8 to {most}")
    assert found.interval[1] == "4–inf"
    assert lists_match(found)


def lens(agreement, falls=(0.5, 0.4)):
    """Plain readings of layers 0 to 12 with this agreement each, two tuned, and one constant answer."""
    rows = [
        {"reader": "lens", "layer": at, "kl": 12.0 - at, "kl_low": 11.5 - at, "agreement": each,
         "agreement_low": each - 0.01, "agreement_high": each + 0.01}
        for at, each in enumerate(agreement)
    ]  # fmt: skip
    rows += [
        {"reader": "tuned", "layer": at, "kl": 2.0, "kl_fall_low": fall, "kl_fall_high": fall + 1}
        for at, fall in zip((4, 8), falls, strict=True)
    ]
    return [
        *rows,
        {"reader": "constant", "layer": 12, "kl": 4.0, "kl_high": 4.2, "agreement": 0.2, "agreement_high": 0.21},
    ]


@pytest.mark.parametrize(
    ("agreement", "verdict"),
    [
        ([0.1] * 6 + [0.3] + [0.1] * 2 + [0.3] * 4, "holds from layer 9 of 12 on: more than one answer"),
        ([0.3] * 13, "holds from layer 0 of 12 on"),
        ([0.205] * 13, "fails: "),
    ],
)  # fmt: skip
def test_a_lens_says_something_where_it_beats_one_answer_for_all(context, agreement, verdict):
    write(context, meaning.LENS, lens(agreement))
    found = meaning.readable(context)
    assert found.verdict.startswith(verdict)
    assert [each.split()[1] for each in found.figure[1:]] == ["0", "6", "12"]
    assert lists_match(found)


@pytest.mark.parametrize(("falls", "verdict"), [((0.5, 0.1), "holds: a"), ((0.5, -0.1), "holds in part: a")])
def test_the_plain_lens_is_limited_where_a_translator_helps(context, falls, verdict):
    write(context, meaning.LENS, lens([0.3] * 13, falls))
    found = meaning.limited(context)
    assert found.verdict.startswith(verdict)
    assert "further off than one answer for every text at 8 of 12 layers" in found.verdict
    assert found.figure[1:] == ["layer 4 8.00 → 2.00", "layer 8 4.00 → 2.00"]
    assert lists_match(found)


def test_factorisation_is_placed_between_floor_and_ceiling(context):
    one = {"dim": 50, "shift": 5.0, "power": 0.5, "low": 0.1, "high": 0.9, "n": 9}
    write(context, meaning.FACTORISE, [
        one | {"space": "ppmi-svd", "statistic": "cka", "value": 0.5},
        one | {"space": "skip-gram, other seed", "statistic": "cka", "value": 0.9},
        one | {"space": "skip-gram, rows shuffled", "statistic": "cka", "value": 0.1},
    ])  # fmt: skip
    found = meaning.factorised(context)
    assert found.figure[1] == "cka 0.500"
    assert found.null[1] == "0.100 … 0.900"
    assert found.interval[1] == "0.100–0.900"
    assert "50\u00a0% of the way" in found.verdict


def features(k, sae, pca, random=0.2):
    one = {"part": "quality", "statistic": "explained_variance", "k": k}
    values = {"sae": sae, "pca": pca, "random features": random}
    rows = [one | {"method": m, "value": v, "low": v - 0.01, "high": v + 0.01} for m, v in values.items()]
    return [*rows, rows[0] | {"part": "training tokens", "value": 1.0, "low": 1.0}]


def price(k, over, parity):
    one = {"part": "cost", "method": "sae", "k": k}
    values = {"training_over_forward_flops": over, "training_over_forward": 2 * over, "features_at_parity": parity}
    return [one | {"statistic": name, "value": value} for name, value in values.items()]


@pytest.mark.parametrize(
    ("pca", "over", "verdict"),
    [(0.5, 0.02, "holds in part: extra"), (0.5, 1.5, "holds: extra"), (0.685, 0.02, "fails: training explains no")],
)
def test_training_is_needed_where_it_explains_more_and_expensive_from_a_forward_pass_on(context, pca, over, verdict):
    rows = features(16, 0.7, 0.3) + features(32, 0.7, pca)
    write(context, meaning.SAE, rows + price(16, 0.01, 9e4) + price(32, over, 2e5))
    found = meaning.trained(context)
    assert found.verdict.startswith(verdict)
    assert f"costs 0.010 to {over:.3f} of the model's forward pass" in found.verdict
    assert found.verdict.endswith("as much as it at 90,000 features")
    assert found.figure[1] == "k = 16 0.700 (0.010; 0.020)"
    assert found.null[2] == f"0.200, {pca:.3f}"
    assert found.interval[1] == "0.690–0.710"
    assert lists_match(found)


@pytest.mark.parametrize(
    ("low", "equal", "verdict"),
    [(1.1, True, "holds: "), (0.9, True, "holds in part: "), (1.1, False, "fails: ")],
)
def test_a_gather_replaces_the_product_where_it_is_equal_and_faster(context, low, equal, verdict):
    one = {"device": "cpu", "passes": "forward", "way": "one-hot", "memory_ratio": 2.0, "ratio_high": 9.0}
    rows = [
        one | {"vocabulary": 1024, "tokens": 64, "ratio": 3.0, "ratio_low": 2.0, "equal": True},
        one | {"vocabulary": 4096, "tokens": 64, "ratio": 2.0, "ratio_low": low, "equal": equal},
        one | {"vocabulary": 1024, "tokens": 8, "ratio": 2.0, "ratio_low": 1.5, "equal": True},
        one | {"vocabulary": 9999, "tokens": 64, "ratio": None, "ratio_low": None, "equal": None},
        one | {"vocabulary": 1024, "tokens": 64, "ratio": 1.0, "ratio_low": 1.0, "equal": True, "way": "gather"},
    ]
    write(context, meaning.LOOKUP, rows)
    found = meaning.looked_up(context)
    assert found.verdict.startswith(verdict)
    assert f"equal in {3 + equal} of 4 comparisons" in found.verdict
    assert f"slower at {2 + (low > 1)} of 3 sizes" in found.verdict
    assert found.figure[1] == "cpu, forward, 1,024 words, 64 tokens 3 (2)"
    assert found.interval[1] == "2–9"
    assert lists_match(found)


def correlated(interpretable, rho, low, high):
    return {"interpretable": interpretable, "useful": "probe", "rho": rho, "low": low, "high": high, "spaces": 7}


@pytest.mark.parametrize(
    ("second", "verdict"),
    [
        ((-0.6, -0.9, -0.1), "holds: below 0 in 2 of 2 correlations, and beyond doubt in 2; above beyond doubt in 0"),
        ((0.6, -0.1, 0.9), "not decided: below 0 in 1 of 2 correlations, and beyond doubt in 1; above"),
        ((0.6, None, None), "not decided: "),
        (
            (0.6, 0.1, 0.9),
            "not decided: below 0 in 1 of 2 correlations, and beyond doubt in 1; above beyond doubt in 1",
        ),
    ],
)
def test_a_trade_off_holds_where_every_correlation_says_so(context, second, verdict):
    rows = [
        correlated("coherence_npmi_gain", -0.5, -0.8, -0.1),
        correlated("coherence_glove_gain", *second),
        correlated("intrusion_npmi", 0.9, 0.8, 1.0),
    ]
    write(context, meaning.TRADEOFF, rows)
    found = meaning.opaque(context)
    assert found.verdict.startswith(verdict)
    assert found.figure[1] == "coherence_npmi_gain, probe -0.50 (7 spaces)"
    assert found.interval[1:] == ["-0.80 to -0.10", "too few models" if second[1] is None else
                                  f"{second[1]:.2f} to {second[2]:.2f}"]  # fmt: skip
    assert lists_match(found)


def test_a_trade_off_fails_where_every_correlation_says_the_opposite(context):
    write(context, meaning.TRADEOFF, [correlated("coherence_npmi_gain", 0.5, 0.1, 0.8)])
    assert meaning.opaque(context).verdict.startswith("fails: below 0 in 0 of 1")
