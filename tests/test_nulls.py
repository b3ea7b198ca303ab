import itertools
import math

import mpmath
import numpy as np
import pytest
from scipy import integrate

from geomkit import nulls
from geomkit.errors import InvalidInputError
from tests.bounds import assert_within

DIMENSIONS = [2, 3, 4, 10, 512, 4096]


def directions(rng, shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_density_integrates_to_the_distribution(d):
    sphere = nulls.sphere(d)
    # In the angle, c = sin(t), the density has no poles, not even for d = 2.
    ends = np.arcsin(np.clip(np.array([-1, -0.5, -2, -1, 0, 1, 2, 3, 99]) / [1, 1, *[math.sqrt(d)] * 6, 1], -1, 1))
    ends = np.unique(ends)
    total = 0.0
    for start, stop in itertools.pairwise(ends):
        mass, _ = integrate.quad(lambda t: float(sphere.pdf(math.sin(t))) * math.cos(t), start, stop)
        total += mass
        assert_within(total, sphere.cdf(math.sin(stop)), 1e-8)
    assert_within(total, 1, 1e-8)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_distribution_is_symmetric_and_ends_where_cosines_end(d):
    sphere = nulls.sphere(d)
    c = np.linspace(-1, 1, 41)
    assert_within(sphere.cdf(c) + sphere.cdf(-c), 1, 1e-12)
    assert sphere.cdf([-1.5, -1, 1, 1.5]).tolist() == [0, 0, 1, 1]
    assert (np.diff(sphere.cdf(c)) >= 0).all()


@pytest.mark.parametrize("d", DIMENSIONS)
def test_quantiles_are_where_the_distribution_says(d):
    sphere = nulls.sphere(d)
    for probability in (0.001, 0.01, 0.3, 0.5, 0.75, 0.99):
        assert_within(sphere.cdf(sphere.quantile(probability)), probability, 1e-10)
    assert (sphere.quantile(0), sphere.quantile(0.5), sphere.quantile(1)) == (-1, 0, 1)
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInputError, match=r"probability must lie in \[0, 1\]; got"):
            sphere.quantile(bad)


def test_quantiles_of_two_directions():
    assert [nulls.sphere(1).quantile(each) for each in (0, 0.5, 0.51, 1)] == [-1, -1, 1, 1]


@pytest.mark.parametrize("d", DIMENSIONS)
def test_moments_are_those_of_the_density(d):
    sphere = nulls.sphere(d)

    def moment(f):
        edge = math.asin(min(1, 12 / math.sqrt(d)))
        return 2 * integrate.quad(lambda t: float(sphere.pdf(math.sin(t))) * math.cos(t) * f(math.sin(t)), 0, edge)[0]

    second, fourth = moment(lambda c: c**2), moment(lambda c: c**4)
    share = moment(lambda c: c <= 0.05)
    assert_within(sphere.std**2, second, 1e-9 * second)
    assert_within(sphere.kurtosis, fourth / second**2 - 3, 1e-7)
    assert_within(sphere.mean_abs, moment(abs), 1e-9)
    assert_within(sphere.within_fraction(0.05), share, 3e-3)
    assert_within(sphere.within_fraction(0.05), sphere.cdf(0.05) - sphere.cdf(-0.05), 1e-12)
    n = 50
    pairs = n * (n - 1) / 2
    assert_within(sphere.mean_std(n), math.sqrt(second / pairs), 1e-9)
    assert_within(sphere.mean_square_std(n), math.sqrt((fourth - second**2) / pairs), 1e-7 * sphere.std**2)
    assert_within(sphere.mean_abs_std(n), math.sqrt((second - moment(abs) ** 2) / pairs), 1e-7 * sphere.std)
    inside = sphere.within_fraction(0.05)
    assert_within(sphere.within_fraction_std(0.05, n), math.sqrt(inside * (1 - inside) / pairs), 1e-12)


@pytest.mark.parametrize(("d", "mean_abs"), [(512, 0.03528), (1024, 0.02494), (4096, 0.01247)])
def test_mean_magnitudes_worth_knowing(d, mean_abs):
    assert_within(nulls.sphere(d).mean_abs, mean_abs, 0.5e-5)


@pytest.mark.parametrize(("d", "beyond"), [(512, 0.0235), (1024, 0.00135)])
def test_shares_worth_knowing(d, beyond):
    assert_within(1 - nulls.sphere(d).within_fraction(0.1), beyond, 0.5 * 10.0 ** -(4 if d == 512 else 5))


def test_shares_at_the_ends():
    for d in (1, 2, 512):
        sphere = nulls.sphere(d)
        assert sphere.within_fraction(1) == sphere.within_fraction(2) == 1
        assert sphere.within_fraction(0) == sphere.within_fraction(-0.1) == 0


def test_a_line_has_two_directions():
    line = nulls.sphere(1)
    assert (line.std, line.mean_abs, line.mean_abs_std(9), line.mean_square_std(9)) == (1, 1, 0, 0)
    assert line.kurtosis == -2
    assert line.cdf([-1.1, -1, 0, 0.99, 1]).tolist() == [0, 0.5, 0.5, 0.5, 1]
    assert line.within_fraction(0.99) == 0
    assert (line.coherence(5).mean, line.coherence(5).std, line.coherence(5).quantile(0.5)) == (1, 0, 1)
    assert line.coherence(5).cdf([0.5, 1]).tolist() == [0, 1]
    with pytest.raises(InvalidInputError, match="d must be at least 2 for a density"):
        line.pdf(0.0)


def largest_cosines(n, d, sets, seed):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(sets // 500):
        u = directions(rng, (500, n, d))
        gram = np.abs(u @ u.transpose(0, 2, 1))
        gram[:, np.arange(n), np.arange(n)] = 0
        found.append(gram.max(axis=(1, 2)))
    return np.sort(np.concatenate(found))


@pytest.mark.parametrize("d", [8, 100])
def test_coherence_agrees_with_simulation(d):
    sets = 10_000
    found, largest = largest_cosines(50, d, sets, seed=d), nulls.sphere(d).coherence(50)
    below = largest.cdf(found)
    steps = np.arange(1, sets + 1) / sets
    # 0.01 of approximation and what 10,000 sets miss the truth by (Kolmogorov, at 1 in 10,000).
    assert max((steps - below).max(), (below - steps + 1 / sets).max()) < 0.01 + 2.2 / math.sqrt(sets)
    error = 4 * found.std() / math.sqrt(sets) + 0.02 * found.std()
    assert_within(largest.mean, found.mean(), error)
    assert_within(largest.std, found.std(), error)


@pytest.mark.parametrize(("n", "d"), [(2, 2), (2, 8), (2, 4096), (50, 2), (50, 512), (100_000, 8), (100_000, 4096)])
def test_coherence_is_a_distribution(n, d):
    largest = nulls.sphere(d).coherence(n)
    shares = np.array([1e-6, 0.01, 0.5, 0.99, 1 - 1e-6])
    values = np.array([largest.quantile(share) for share in shares])
    assert (np.diff(values) > 0).all()
    # Near 1 a cosine is rounded to 2^-53, which its tail, (1 - c²)^((d-1)/2), may feel at d = 2.
    assert_within(largest.cdf(values), shares, 1e-9 if d > 2 else 1e-3)
    assert largest.cdf(-0.5) == 0
    assert largest.cdf(1) == 1
    assert values[0] < largest.mean < values[-1]
    assert 0 < largest.std < values[-1] - values[0]


def test_coherence_of_two_is_one_magnitude():
    sphere, largest = nulls.sphere(20), nulls.sphere(20).coherence(2)
    assert_within(largest.mean, sphere.mean_abs, 1e-9)
    assert_within(largest.std**2, 1 / 20 - sphere.mean_abs**2, 1e-9)
    assert_within(largest.cdf(0.1), sphere.within_fraction(0.1), 1e-12)


def test_coherence_keeps_its_digits_far_out():
    largest = nulls.sphere(4096).coherence(2000)
    beyond = 1 - float(largest.cdf(0.2))
    with mpmath.workdps(40):
        tail = mpmath.betainc(mpmath.mpf(4095) / 2, 0.5, 0, 1 - mpmath.mpf(0.2) ** 2, regularized=True)
        assert_within(float(-mpmath.expm1(1999000 * mpmath.log1p(-tail))), beyond, 1e-15)


@pytest.mark.parametrize("d", [1, 2, 3, 30, 31, 32, 33, 100, 4096, 9999, 10_001, 10**6, 10**9])
@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_gaussian_distance_moments_to_the_last_digits(d, sigma):
    with mpmath.workdps(60):
        half = mpmath.mpf(d) / 2
        ratio = mpmath.exp(mpmath.loggamma(half + mpmath.mpf(1) / 2) - mpmath.loggamma(half))
        mean, relative = 2 * sigma * ratio, half / ratio**2 - 1
        std = mean * mpmath.sqrt(relative)
    found = nulls.gaussian(d, sigma)
    assert_within(found.relative_variance, float(relative), 1e-13 * float(relative))
    assert_within(found.mean, float(mean), 1e-14 * float(mean))
    assert_within(found.std, float(std), 1e-13 * float(std))
    assert_within(nulls.sphere(d).mean_abs, float(1 / mpmath.sqrt(mpmath.pi) / ratio), 1e-14)


def test_gaussian_closed_forms_agree_with_simulation():
    rng, d, sigma, m = np.random.default_rng(3), 7, 1.7, 100_000
    differences = np.abs(sigma * rng.standard_normal((m, d)) - sigma * rng.standard_normal((m, d)))
    null = nulls.gaussian(d, sigma)
    euclidean = np.sqrt(np.square(differences).sum(axis=1))
    assert_means_agree(euclidean, null.mean)
    assert_spreads_agree(euclidean, null.std, null.relative_variance)
    assert_means_agree(euclidean**2, null.mean_squared)
    assert_spreads_agree(euclidean**2, None, null.relative_variance_squared)
    assert_means_agree(differences.sum(axis=1), null.mean_manhattan)
    assert_spreads_agree(differences.sum(axis=1), None, null.relative_variance_manhattan)
    assert_means_agree(differences.max(axis=1), null.mean_chebyshev())


def test_cube_closed_forms_agree_with_simulation():
    rng, d, m = np.random.default_rng(4), 7, 100_000
    differences = np.abs(rng.random((m, d)) - rng.random((m, d)))
    null = nulls.cube(d)
    squares = np.square(differences).sum(axis=1)
    assert_means_agree(squares, null.mean_squared)
    assert_spreads_agree(squares, None, null.relative_variance_squared)
    assert_means_agree(differences.sum(axis=1), null.mean_manhattan)
    assert_spreads_agree(differences.sum(axis=1), None, null.relative_variance_manhattan)
    for p in (0.5, 1, 2, 3):
        assert_means_agree((differences**p).sum(axis=1), null.mean_power(p))
    largest = differences.max(axis=1)
    assert_means_agree(largest, null.mean_chebyshev())
    for t in (0.5, 0.7, 0.9):
        inside = float(null.chebyshev_cdf(t))
        assert_within(np.mean(largest <= t), inside, 4 * math.sqrt(inside * (1 - inside) / m))
    assert null.chebyshev_cdf([-1, 0, 1, 2]).tolist() == [0, 0, 1, 1]


def assert_means_agree(values, mean):
    assert_within(values.mean(), mean, 4 * values.std() / math.sqrt(len(values)))


def assert_spreads_agree(values, std, relative):
    variance = values.var()
    fourth = np.mean((values - values.mean()) ** 4)
    error = 4 * math.sqrt((fourth - variance**2) / len(values))
    assert_within(relative * values.mean() ** 2, variance, 1.2 * error)
    if std is not None:
        assert_within(std**2, variance, error)


@pytest.mark.parametrize("d", [1, 2, 768, 4096])
def test_means_of_the_largest_difference(d):
    with mpmath.workdps(30):
        points = [0, 1, 2, 3, 4, 5, 6, 8, 12]
        gaussian = mpmath.sqrt(2) * mpmath.quad(lambda x: 1 - mpmath.erf(x / mpmath.sqrt(2)) ** d, points)
        # 1 - t of the cube's largest difference: a beta integral, ∫ (1 - u²)^d du over [0, 1].
        cube = 1 - mpmath.beta(mpmath.mpf(1) / 2, d + 1) / 2
    assert_within(nulls.gaussian(d).mean_chebyshev(), float(gaussian), 1e-8)
    assert_within(nulls.cube(d).mean_chebyshev(), float(cube), 1e-8)


@pytest.mark.parametrize("make", [nulls.sphere, nulls.gaussian, nulls.cube])
@pytest.mark.parametrize("d", [0, -1, 2.0, "3", None, True, math.nan])
def test_d_must_be_a_whole_number(make, d):
    with pytest.raises(InvalidInputError, match="d must be a whole number of at least 1; got"):
        make(d)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert nulls.sphere(np.int32(7)) == nulls.sphere(7)


def test_other_arguments_are_checked():
    with pytest.raises(InvalidInputError, match="n must be at least 2; got 1"):
        nulls.sphere(3).coherence(1)
    for probability in (0, 1, -1, math.nan):
        with pytest.raises(InvalidInputError, match="probability must be strictly between 0 and 1; got"):
            nulls.sphere(3).coherence(5).quantile(probability)


def test_z():
    assert nulls.z(3.0, 1.0, 0.5) == 4
    assert nulls.z(-1.0, 1.0, 0.5) == -4
    assert math.isnan(nulls.z(1.0, 1.0, 0.0))
