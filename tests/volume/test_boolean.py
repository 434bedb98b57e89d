"""Priors over Boolean functions against an enumeration and a theorem, and the counting itself."""

import itertools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from genjax.errors import Status
from genjax.run import Execution, Interrupted
from genjax.run.progress import Progress
from genjax.volume import boolean, oracles
from genjax.volume.boolean import BooleanHistogram, boolean_function_histogram
from genjax.volume.spaces import weight_space
from tests.volume.test_guess_and_check import BINARY, CUBE

QUIET = Execution(progress=False)
# Seeds are fixed; a right program would fail for 1 seed in 1000.
SMALLEST_P_VALUE = 1e-3


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs are compiled for each device; one will do."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


def histogram(space, inputs, n, seed=0, execution=QUIET, **more):
    return boolean_function_histogram(space, inputs, n, key=jax.random.key(seed), execution=execution, **more)


def test_the_binary_network_has_its_exact_law():
    n = 2**18
    found = histogram(BINARY, CUBE, n)
    exact = oracles.binary_network()
    codes = found.codes.astype(int) @ [1, 256]
    counts = np.zeros(len(exact.codes))
    place = np.searchsorted(exact.codes, codes)
    np.testing.assert_array_equal(exact.codes[place], codes)  # nothing that no net computes
    counts[place] = found.counts
    assert counts.sum() == n
    assert found.n_invalid == 0
    # As many draws as nets: expected counts are the exact ones, at least 48.
    assert chisquare(counts, exact.counts).pvalue > SMALLEST_P_VALUE
    share = exact.counts / exact.counts.sum()
    entropy = -np.sum(share * np.log(share))
    np.testing.assert_allclose(entropy, 7.294532161692)
    # Plug-in entropy: its bias is -(2112 - 1) / 2n, its standard deviation sd(ln P) / sqrt(n).
    sd = np.sqrt((np.sum(share * np.log(share) ** 2) - entropy**2) / n)
    assert abs(found.entropy + 2111 / (2 * n) - entropy) < 4 * sd
    assert (np.diff(found.counts) <= 0).all()
    likely, first = found.log_prob(found.functions[0]), found.counts[0]
    np.testing.assert_allclose(likely.value, np.log(first / n))
    assert likely.status == Status.OK
    never = found.log_prob(np.ones(16))
    assert never.status == Status.BOUND
    np.testing.assert_allclose(never.value, np.log(-np.log(0.025) / n), atol=1e-4)
    with pytest.raises(ValueError, match=r"`function` must have shape \(16,\)"):
        found.log_prob([True, False])


def test_a_perceptron_without_threshold_has_a_uniform_number_of_ones():
    n_inputs = 4
    inputs = np.array(list(itertools.product([0.0, 1.0], repeat=n_inputs)))
    space = weight_space(lambda w, x: x @ w[:, None], jnp.zeros(n_inputs))
    found = histogram(space, inputs, 20_000)
    ones = np.bincount(found.functions.sum(axis=1), found.counts, minlength=17)
    assert ones[16] == 0  # the zero input gives 0
    expected = np.exp(oracles.random_perceptron_log_prior(n_inputs, np.arange(16))) * 20_000
    assert chisquare(ones[:16], expected).pvalue > SMALLEST_P_VALUE


def noisy_sum(w, x):
    """NaN for hypotheses whose first weight is large."""
    return jnp.where(w[0] > 1, jnp.nan, x @ w[:, None])


def test_rounds_and_batches_only_share_out_the_draws(tmp_path, monkeypatch):
    # 70 inputs take 9 bytes, which are more than one word; 500 hypotheses are 3 rounds of 4 members and a bit.
    monkeypatch.setattr(boolean, "_PER_MEMBER", 50)
    monkeypatch.setattr(boolean, "_PER_ROUND", 200)
    inputs = np.random.default_rng(0).normal(size=(70, 3))
    space = weight_space(noisy_sum, jnp.zeros(3))
    n = 470
    expected = histogram(space, inputs, n, batch=7)
    keys = [
        jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(0), r), member), 50)
        for r in range(3)
        for member in range(4)
    ]
    weights = jax.jit(jax.vmap(space.sample))(jnp.concatenate(keys)[:n])
    assert expected.n_invalid == np.sum(weights[:, 0] > 1) > 0
    tables = (np.asarray(weights) @ inputs.T > 0)[np.asarray(weights)[:, 0] <= 1]
    functions, counts = np.unique(tables, axis=0, return_counts=True)
    assert len(expected.counts) == len(functions)
    for function, count in zip(functions, counts, strict=True):
        same = (expected.functions == function).all(axis=1)
        assert expected.counts[same].tolist() == [count]
    assert sum(expected.counts) + expected.n_invalid == n

    advance, calls = Progress.advance, []

    def stopped(self, *arguments):
        calls.append(advance(self, *arguments))
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", stopped)
        with pytest.raises(Interrupted, match="resume to go on"):
            histogram(space, inputs, n, batch=7, directory=tmp_path / "run")
        resumed = histogram(space, inputs, n, batch=7, directory=tmp_path / "run", resume=True)
    # 4 + 4 + 2 members; the 6 that were finished are not drawn again.
    assert len(calls) == 10
    for found, wanted in zip(resumed, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_codes_are_bits_of_the_inputs_in_order():
    found = BooleanHistogram(np.array([[0b101, 0b1]], np.uint8), np.array([3]), 9, 1)
    assert np.flatnonzero(found.functions[0]).tolist() == [0, 2, 8]
    assert found.entropy == 0
    np.testing.assert_allclose(found.log_prob(found.functions[0]).value, np.log(3 / 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BINARY, CUBE, 0), "`n_hypotheses` must be a positive whole number"),
        ((BINARY, np.full((4, 4), np.nan), 1), "`inputs` must be finite"),
        (
            (weight_space(lambda w, x: x @ w, jnp.zeros((4, 2))), CUBE, 1),
            r"`space` must give outputs of shape \(16, 1\), but their shape is \(16, 2\)",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        histogram(*arguments)
    with pytest.raises(ValueError, match="`batch` must be a positive whole number"):
        histogram(BINARY, CUBE, 1, batch=0)
