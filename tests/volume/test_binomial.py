"""Clopper-Pearson intervals against SciPy's, closed forms in the extremes, and their coverage summed exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from genjax.errors import Status
from genjax.volume.binomial import bias_of_proportion, clopper_pearson, log_proportion


@pytest.mark.parametrize("n", [1, 2, 7, 100, 5000])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_is_scipys(n, level):
    hits = np.unique(np.linspace(0, n, 12).astype(int))
    expected = [binomtest(int(k), n).proportion_ci(level, "exact") for k in hits]
    # SciPy solves each end by root-finding to about 1e-12.
    np.testing.assert_allclose(np.exp(clopper_pearson(hits, n, level)), np.transpose(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [2, 10, 10**6, 10**12])
def test_the_ends_have_closed_forms(n):
    low, high = clopper_pearson([0, 1, n], n)
    # Of no hits, one hit and all hits, in log space to a few units of the last place.
    np.testing.assert_allclose(high[0], np.log(-np.expm1(np.log(0.025) / n)), rtol=1e-11)
    np.testing.assert_allclose(low[1], np.log(-np.expm1(np.log1p(-0.025) / n)), rtol=1e-11)
    np.testing.assert_allclose(low[2], np.log(0.025) / n, rtol=1e-11)
    assert low[0] == -np.inf
    assert high[2] == 0


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_the_interval_holds_the_share_and_mirrors(hits, trials):
    hits = min(hits, trials)
    low, high = clopper_pearson(hits, trials)
    share = np.log(hits / trials) if hits else -np.inf
    assert low <= share <= high
    # What misses is what the complement hits; near 1 the log has lost digits, so as probabilities.
    mirrored_low, mirrored_high = clopper_pearson(trials - hits, trials)
    np.testing.assert_allclose(np.exp([low, high]), -np.expm1([mirrored_high, mirrored_low]), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("n", [5, 40, 300])
def test_it_covers_at_least_as_often_as_it_says(n):
    hits = np.arange(n + 1)
    low, high = np.exp(clopper_pearson(hits, n))
    p = np.linspace(0.001, 0.999, 500)[:, None]
    coverage = np.sum(binom.pmf(hits, n, p) * ((low <= p) & (p <= high)), axis=1)
    assert coverage.min() >= 0.95
    # It is known to be conservative, but not vacuous.
    assert coverage.min() < 0.99


def test_no_trials_say_nothing():
    assert clopper_pearson(0, 0) == (-np.inf, 0)
    nothing = bias_of_proportion([0, 0], 0)
    np.testing.assert_array_equal(nothing.value, 0)
    np.testing.assert_array_equal(nothing.interval()[1], np.inf)
    np.testing.assert_array_equal(nothing.status, Status.BOUND)


def test_a_log_proportion_has_its_error_and_status():
    found = log_proportion([0, 4, 16], 16, "made up")
    np.testing.assert_allclose(found.value[1:], [np.log(0.25), 0])
    # Delta method: sd of ln(k/n) is sqrt((1 - p) / (n p)).
    np.testing.assert_allclose(found.stderr, [np.inf, np.sqrt(0.75 / 4), 0])
    np.testing.assert_array_equal(found.status, [Status.BOUND, Status.OK, Status.OK])
    np.testing.assert_allclose(found.value[0], found.interval()[1][0])
    assert found.given == "made up"


def test_a_bias_is_minus_a_log_proportion():
    hits = [0, 4, 16]
    log_p, bias = log_proportion(hits, 16), bias_of_proportion(hits, 16)
    np.testing.assert_array_equal(bias.value, -log_p.value)
    np.testing.assert_array_equal(bias.interval()[0], -log_p.interval()[1])
    np.testing.assert_array_equal(bias.interval()[1], -log_p.interval()[0])
    assert not np.signbit(bias.value[2])  # certainty needs +0 nats


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 2), "`hits` must be at most `trials`, but 3 of 2 came"),
        ((-1, 2), "`hits` must be whole and at least 0"),
        ((0.5, 2), "`hits` must be whole"),
        ((1, 2.5), "`trials` must be whole"),
        ((1, 2, 1.0), "`level` must be strictly between 0 and 1"),
    ],
)
def test_bad_counts_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        clopper_pearson(*arguments)
