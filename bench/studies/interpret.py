"""Whether dimensions mean something: coherence and intrusion before and after rotation, and how useful a space is."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import diags_array

from bench.figures.interpret import finding
from bench.figures.interpret import interpret as drawn
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs.words import LEVELS, Reading, Space, prepared
from bench.measures import tasks
from bench.measures.association import across, weighted_spearman
from bench.measures.intervals import bootstrap
from bench.studies import sae
from geomkit.datasets import corpora
from geomkit.interpret.coherence import Interpretability, interpretability

DIMENSIONS, DIMENSIONS_QUICK = 576, 24
TOP, SHOWN = 10, 5
LEAST_PAIRS = 10
RESAMPLES = 1000
SPEAK = 5
"""Dimensions of each space whose words are shown: the first that were drawn, not the best."""

AHEAD = 1_000_000
"""Dimensions that the cost of judging is carried forward to."""

AS_IS, ROTATED, UNIT = FORMS = ("as it is", "rotated", "unit rows")
"""In which a space is judged. Rows of length 1 are how cosine sees it: then rare words are at the top as easily."""

Key = tuple[str, str]
"""A space, and its form."""

Array = NDArray[Any]


def units(context: Context) -> tuple[Unit, ...]:
    """Return the one unit: its spaces share words and judges, which take longer than judging, and are compared."""
    del context
    return (Unit("all spaces", ("smollm2-input-576",)),)


def measure(context: Context, unit: Unit) -> Tables:
    """Judge every space in every form: interpret.csv, and tables of rankings, word similarity and words."""
    del unit
    begun = time.perf_counter()
    own = sae.QUICK if context.quick else sae.FULL
    texts = corpora.bbc().texts[:: own.stride]
    reading = Reading(texts, own.max_tokens, sae.LAYER, lambda: sae.study_autoencoder(context).autoencoder)
    spaces, words, judges, frequency = prepared(reading, context)
    context.say(f"{len(spaces)} spaces of {len(words):,} words ({time.perf_counter() - begun:.0f} s)")
    return judged(spaces, words, judges, frequency, context)


def conclude(context: Context) -> None:
    """Hold being interpretable against being useful: interpret_use.csv and interpret_tradeoff.csv."""
    table = context.read("interpret.csv")
    use = useful(table, context.read("interpret_similarity.csv"), context.read("separability.csv"))
    context.table("interpret_use.csv", use)
    context.table("interpret_tradeoff.csv", pd.DataFrame(list(_tradeoff(use))))
    context.say(finding(table, context.read("interpret_ranking.csv")).replace(".\n", "; "))


def draw(context: Context) -> None:
    """Draw interpret.svg."""
    names = ("interpret", "interpret_ranking", "interpret_use")
    context.figure("interpret", drawn(*(context.read(f"{name}.csv") for name in names)))


def judged(
    spaces: Sequence[Space], words: Sequence[str], judges: Mapping[str, Array], frequency: Array, context: Context
) -> Tables:
    """Judge spaces in every form, and return every table by the name of its file.

    The first space is the floor of all others. Judges are those of `interpretability`.
    """
    found: dict[Key, Interpretability] = {}
    seconds: dict[Key, float] = {}
    for space in spaces:
        for form in FORMS:
            start = time.perf_counter()
            found[space.name, form] = interpretability(
                unit_rows(space.vectors) if form == UNIT else space.vectors, judges, rotate=form == ROTATED,
                both=space.both or form == ROTATED, dimensions=DIMENSIONS_QUICK if context.quick else DIMENSIONS,
                top=TOP, shown=SHOWN, frequency=frequency, seed=context.seed,
            )  # fmt: skip
            seconds[space.name, form] = time.perf_counter() - start
    rows = [
        row
        for space in spaces
        for form in FORMS
        for row in _score_rows(space, form, found, seconds[space.name, form], floor=spaces[0].name, seed=context.seed)
    ]
    each = sum(seconds.values()) / sum(len(one.dimensions) for one in found.values())
    context.say(
        f"judging takes {1e3 * each:.1f} ms a dimension of {len(words):,} words, both judges and their nulls: "
        f"{each * AHEAD / 3600:,.1f} hours for {AHEAD:,} dimensions"
    )
    shown = pd.concat(
        [
            one.to_frame(words).iloc[: SPEAK * one.top.shape[1]].assign(space=name, form=form)
            for (name, form), one in found.items()
        ]
    )
    return {
        "interpret.csv": pd.DataFrame(rows),
        "interpret_ranking.csv": pd.DataFrame(list(_differences(spaces, found, context.seed))),
        "interpret_similarity.csv": pd.DataFrame([_similarity(space, words, context.seed) for space in spaces[1:]]),
        "interpret_words.csv": shown[["space", "form", *(name for name in shown if name not in {"space", "form"})]],
    }


def unit_rows(x: Any) -> Any:
    """Return rows brought to length 1; those of zeros stay as they are."""
    given = np.asarray(x, np.float64) if isinstance(x, np.ndarray) else x
    squares = given**2 if isinstance(given, np.ndarray) else given.multiply(given)
    lengths = np.sqrt(np.asarray(squares.sum(axis=1)).ravel())
    return diags_array(1 / np.where(lengths > 0, lengths, 1)) @ given


def _score_rows(
    space: Space, form: str, found: Mapping[Key, Interpretability], seconds: float, *, floor: str, seed: int
) -> Iterator[dict[str, Any]]:
    one = found[space.name, form]
    about = {
        "space": space.name, "family": space.family, "level": space.level, "group": space.group, "form": form,
        "words": one.n, "d": one.d, "dimensions": len(one.dimensions), "examined": one.examined,
        "left_out": one.left_out, "ends": one.top.shape[1],
    }  # fmt: skip
    for judge, statistic, values, null in scores(one):
        low, high = bootstrap(values, np.mean, seed)
        gain = bootstrap(values - null, np.mean, seed)
        lowest: Any = getattr(found[floor, AS_IS], statistic)[judge]
        yield about | {
            "judge": judge, "statistic": statistic, "value": values.mean(), "low": low, "high": high,
            "null": null.mean(), "gain": (values - null).mean(), "gain_low": gain[0], "gain_high": gain[1],
            "random": lowest.mean(), "chance": 1 / (one.shown + 1) if statistic == "intrusion" else math.nan,
            "seconds": round(seconds, 2),
        }  # fmt: skip


def scores(one: Interpretability) -> Iterator[tuple[str, str, Array, Array]]:
    """Yield judge, statistic, and its values and nulls over dimensions."""
    for judge in one.coherence:
        yield judge, "coherence", one.coherence[judge], one.coherence_null[judge]
        yield judge, "intrusion", one.intrusion[judge], one.intrusion_null[judge]


def _differences(spaces: Sequence[Space], found: Mapping[Key, Interpretability], seed: int) -> Iterator[dict[str, Any]]:
    """Compare spaces of different levels, each space with its rotation, and features with the states they are of.

    Gains are compared: scores less those of words of the same frequency, as judges by themselves prefer frequent words.
    """
    ranks = list(LEVELS)
    pairs = [
        (kind, (upper.name, form), (lower.name, form), f"{upper.level} over {lower.level}")
        for kind, form in (("level", AS_IS), ("level, unit rows", UNIT))
        for upper in spaces
        for lower in spaces
        if upper.level and lower.level and ranks.index(upper.level) < ranks.index(lower.level)
    ]
    pairs += [("rotation", (space.name, AS_IS), (space.name, ROTATED), "as it is over rotated") for space in spaces]
    states = (f"smollm2 layer {sae.LAYER}", AS_IS)
    features = [space.name for space in spaces if space.name.startswith("sae")]
    pairs += [("sae", (name, AS_IS), states, "features over states") for name in features]
    for kind, upper, lower, claim in pairs:
        both = zip(scores(found[upper]), scores(found[lower]), strict=True)
        for (judge, statistic, ours, null), (_, _, theirs, null_there) in both:
            gains = (ours - null, theirs - null_there)
            # Dimensions of two spaces are drawn anew apart from each other: they are no pairs.
            rng = np.random.default_rng(seed)
            means = [each[rng.integers(0, len(each), (RESAMPLES, len(each)))].mean(axis=1) for each in gains]
            low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
            yield {
                "kind": kind, "upper": upper[0], "lower": lower[0], "claim": claim, "judge": judge,
                "statistic": statistic, "difference": gains[0].mean() - gains[1].mean(), "low": low, "high": high,
                "raw_difference": ours.mean() - theirs.mean(),
            }  # fmt: skip


def _similarity(space: Space, words: Sequence[str], seed: int) -> dict[str, Any]:
    """How well the cosines of a space agree with people, and how results/separability.csv calls its documents."""
    given = space.vectors
    dense = np.asarray(given) if isinstance(given, np.ndarray) else given.toarray()
    out: dict[str, Any] = {"space": space.name, "family": space.family, "group": space.group}
    for name, pairs in (("wordsim353", corpora.wordsim353()), ("simlex999", corpora.simlex999())):
        value, low, high, known = word_similarity(dense, words, pairs, seed)
        out |= {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_pairs": known}
    return out | {"probed_as": space.probe}


def useful(table: pd.DataFrame, similarity: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Put how interpretable spaces are beside how useful: word similarity on the same pairs, and probes on documents.

    Parameters
    ----------
    table, similarity, probes : DataFrame
        results/interpret.csv, results/interpret_similarity.csv and results/separability.csv.
    """
    rows = []
    for record in similarity.to_dict("records"):
        space = {str(name): value for name, value in record.items()}
        mine = table[(table.space == space["space"]) & (table.form == AS_IS)]
        out = {name: space.pop(name) for name in ("space", "family", "group")}
        out |= {f"{row.statistic}_{row.judge}": row.value for row in mine.itertuples()}
        out |= {f"{row.statistic}_{row.judge}_gain": row.gain for row in mine.itertuples()}
        probe = probes[(probes.corpus == "bbc") & (probes.source == space.pop("probed_as"))]
        out |= space
        for name, column in (("accuracy", "probe"), ("ci_low", "probe_low"), ("ci_high", "probe_high")):
            out[column] = float(probe[name].iloc[0]) if len(probe) else math.nan
        rows.append(out)
    return pd.DataFrame(rows)


def word_similarity(
    vectors: Array, words: Sequence[str], pairs: Sequence[tuple[str, str, float]], seed: int
) -> tuple[float, float, float, int]:
    """Spearman correlation of cosine with human judgement, its 95 % interval over pairs, and how many are known."""
    left, right, judged = tasks.known_pairs(words, pairs)
    known = len(judged)
    if known < LEAST_PAIRS:
        return math.nan, math.nan, math.nan, known
    x = vectors.astype(np.float64)
    close = tasks.closeness(x[left], x[right], "cosine")
    weights = np.random.default_rng(seed).multinomial(known, np.full(known, 1 / known), RESAMPLES)
    drawn_again = weighted_spearman(close, judged, weights.astype(np.float64))
    value = weighted_spearman(close, judged, np.ones((1, known)))[0]
    low, high = np.quantile(drawn_again, [0.025, 0.975])
    return float(value), float(low), float(high), known


def _tradeoff(use: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rank correlation, over spaces, of being interpretable with being useful; each model counts once."""
    judged = [str(name) for name in use if str(name).startswith(("coherence_", "intrusion_"))]
    for useful in ("wordsim353", "simlex999", "probe"):
        mine = use[use[useful].notna()]
        group = pd.factorize(mine.group)[0].astype(np.int64)
        for name in judged:
            found = across(mine[name].to_numpy(float), mine[useful].to_numpy(float), group)
            yield {
                "useful": useful, "interpretable": name, "rho": found.rho, "low": found.low, "high": found.high,
                "p": found.p, "spaces": len(mine), "models": found.n_groups,
            }  # fmt: skip


STUDY = Study(
    "interpret", "whether dimensions mean something, and what that costs in usefulness", measure, units, conclude, draw,
    reads=("separability",),
)  # fmt: skip
