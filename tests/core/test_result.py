"""What results are as dictionaries and as text: names and their order are what files and scripts rely on."""

import dataclasses
import importlib

import numpy as np
import pytest
import scipy.sparse

from geomkit.core.result import Result

SCALARS = {
    "geomkit.auditing.compare.Difference": (
        "statistic first second value se ci_low ci_high paired significant least answer"
    ),
    "geomkit.distributed.cost.Rates": (
        "measurement fixed number square merge product pair candidate contention error runs"
    ),
    "geomkit.interpret.factorise.Factorisation": "dim power seed solver residual_fraction n_words",
    "geomkit.interpret.npmi.Association": "n_windows n_texts n_tokens window",
    "geomkit.interpret.sae.features.FeatureContext": "feature activation text position token before after",
    "geomkit.interpret.sae.quality.Explained": (
        "n n_texts explained_variance explained_about_zero explained_of_a_dimension"
    ),
    "geomkit.interpret.sae.quality.Quality": (
        "n n_texts explained_variance explained_about_zero explained_of_a_dimension n_features k l0 dead_fraction "
        "dense_fraction"
    ),
    "geomkit.interpret.separability.Separability": (
        "accuracy ci_low ci_high majority shuffled shuffled_std shuffled_max random random_ci_low random_ci_high "
        "p_value keep fewest fewest_ci_low fewest_ci_high fewest_random n_train n_test n_copies n_classes d ridge "
        "shuffles seed unconverged"
    ),
    "geomkit.sampling.estimates.Estimate": "statistic value se ci_low ci_high control note null_mean null_std z",
    "geomkit.stats.alignment.Alignment": (
        "value value_se chance method n d_x d_y k metric x_to_y y_to_x y_to_x_se backend precision"
    ),
    "geomkit.stats.concentration.Concentration": (
        "n d p n_pairs mean std relative_variance relative_variance_squared relative_contrast relative_contrast_se "
        "nearest_to_mean nearest_to_mean_se n_skipped n_recomputed error_bound backend precision n_dropped"
    ),
    "geomkit.stats.cosine.CosineStats": (
        "n d n_pairs mean mean_se std skewness kurtosis min max error_bound backend precision matmul n_dropped"
    ),
    "geomkit.stats.dimension.IntrinsicDimension": (
        "dimension dimension_se maximum_likelihood components_95 radius_low radius_high n d k method metric "
        "n_skipped backend precision n_dropped"
    ),
    "geomkit.stats.hubness.Hubness": (
        "n d k metric skewness skewness_se robin_hood robin_hood_se gini gini_se antihub_fraction hub_fraction "
        "largest_occurrence n_components largest_component_fraction mutual_fraction mutual_fraction_se "
        "outlier_fraction duplicate_fraction duplicate_tolerance backend precision matmul n_dropped"
    ),
    "geomkit.stats.labels.SameLabelRate": (
        "rate rate_se null_mean null_std z majority_fraction n_classes n d k metric backend precision n_dropped"
    ),
    "geomkit.stats.moments.Moments": (
        "n d n_pairs cosine_mean cosine_mean_se cosine_variance cosine_variance_se squared_distance_mean "
        "squared_distance_mean_se squared_distance_variance squared_distance_variance_se "
        "squared_distance_relative_variance backend side n_dropped"
    ),
    "geomkit.stats.neighbors.Neighbors": (
        "of_queries m n d k metric n_recomputed error_bound backend precision matmul n_dropped n_dropped_queries"
    ),
    "geomkit.stats.probe.Probe": (
        "accuracy accuracy_se null_mean null_std z p_value majority_fraction n_classes n n_given d folds shuffles "
        "ridge seed n_dropped"
    ),
    "geomkit.stats.query_fit.QueryFit": (
        "m n d k metric quantile threshold outside_fraction outside_fraction_se outside_null_mean outside_null_std "
        "outside_z skewness skewness_se skewness_null never_fraction never_null_mean never_null_std largest_occurrence "
        "backend precision n_dropped n_dropped_queries"
    ),
    "geomkit.stats.spectrum.Spectrum": (
        "n d participation_ratio participation_ratio_se effective_rank effective_rank_se stable_rank "
        "stable_rank_se isoscore isoscore_se largest_variance_ratio partition_isotropy mean_cosine n_dominant "
        "norm_mean norm_std norm_cv norm_cv_se norm_min norm_max backend n_dropped"
    ),
    "geomkit.stats.squared_distance.SquaredDistanceStats": (
        "n d n_pairs mean mean_se std relative_variance skewness kurtosis min max error_bound backend precision "
        "matmul n_dropped"
    ),
}
"""Of each result, what `to_dict` gives, in this order."""

COSINE = SCALARS["geomkit.stats.cosine.CosineStats"]

COMPOSED = {
    "geomkit.auditing.result.Audit": (
        "format source n d k metric null null_draws seed verdict like_random sampled_from n_dropped backend precision "
        "matmul version findings suggestions rejected rows"
    ),
    "geomkit.auditing.compare.Comparison": "audits paired differences alignments verdict notes",
    "geomkit.interpret.coherence.Interpretability": (
        "n d examined left_out shown exchanges rotated seed coherence_npmi intrusion_npmi coherence_null_npmi "
        "intrusion_null_npmi"
    ),
    "geomkit.interpret.cooccurrence.Cooccurrence": (
        "n_words window dynamic subsample min_count n_tokens neglected n_pairs"
    ),
    "geomkit.interpret.sae.splicing.Splicing": "model layer n n_texts n_read cross_entropy_clean",
    "geomkit.sampling.estimator.Sampled": (
        "n d n_sample n_blocks block_rows n_pairs metric confidence control control_z error_bound backend precision "
        "matmul n_dropped seed source family statistic"
    ),
    "geomkit.stats.orthogonality.Orthogonality": (
        "n d eps coherence welch_bound mean_abs rms within_fraction mean error_bound backend precision n_dropped "
        "rms_null_mean rms_null_std rms_z"
    ),
    "geomkit.stats.survey.Survey": f"{COSINE} k n_recomputed n_duplicate_pairs duplicate_tolerance",
}
"""The same of results that hold other results."""


def result_class(name):
    module, _, kind = name.rpartition(".")
    return getattr(importlib.import_module(module), kind)


def marked(name, **values):
    """Return a result whose scalars say their own name, and whose arrays are zeros."""
    kind = result_class(name)
    result = object.__new__(kind)
    for field in dataclasses.fields(kind):
        value = field.name if field.repr else np.zeros(2)
        object.__setattr__(result, field.name, values.get(field.name, value))
    return result


def composed(name):
    audit = {"findings": (), "suggestions": (), "rejected": (), "rows": {}, "verdict": "ok"}
    judged = {"npmi": np.zeros(2)}
    estimate = marked("geomkit.sampling.estimates.Estimate")
    parts = {
        "Audit": audit,
        "Comparison": {
            "audits": {"a": marked("geomkit.auditing.result.Audit", **audit)}, "differences": (), "alignments": (),
        },
        "Interpretability": dict.fromkeys(("coherence", "intrusion", "coherence_null", "intrusion_null"), judged),
        "Cooccurrence": {"words": ("a", "b"), "counts": scipy.sparse.csr_array(np.eye(2))},
        "Splicing": {"losses": {"clean": np.ones(2)}, "n": 2},
        "Sampled": {"estimates": (estimate,)},
        "Orthogonality": {"nulls": {"rms": result_class("geomkit.stats.orthogonality.Null")(1.0, 2.0, 3.0)}},
        "Survey": {
            "cosine": marked("geomkit.stats.cosine.CosineStats"),
            "neighbors": marked("geomkit.stats.neighbors.Neighbors"),
        },
    }  # fmt: skip
    return marked(name, **parts[name.rpartition(".")[2]])


@dataclasses.dataclass(frozen=True)
class Measured(Result):
    n: int
    rows: list[int] = dataclasses.field(repr=False)
    error_bound: float = 0.5


def test_a_result_gives_what_its_repr_shows():
    result = Measured(3, [4, 5, 6])
    assert result.to_dict() == {"n": 3, "error_bound": 0.5}
    assert str(result) == "n           3\nerror_bound 0.5"
    assert repr(result) == "Measured(n=3, error_bound=0.5)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.n = 4


@pytest.mark.parametrize("name", SCALARS)
def test_the_scalars_of_a_result_keep_their_names_and_order(name):
    scalars = marked(name).to_dict()
    assert " ".join(scalars) == SCALARS[name]
    derived = {"dim": 2, "n_words": 2}
    assert all(value == derived.get(key, key) for key, value in scalars.items())


@pytest.mark.parametrize("name", COMPOSED)
def test_the_scalars_of_a_composed_result_keep_their_names_and_order(name):
    assert " ".join(composed(name).to_dict()) == COMPOSED[name]
