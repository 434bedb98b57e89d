import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genjax.errors import Status
from genjax.estimate import NATS_PER_BIT, Estimate


def estimate(value, stderr=0.0, error_bound=0.0, given="some data") -> Estimate:
    value = jnp.asarray(value, dtype=float)
    full = [jnp.full_like(value, part) for part in (stderr, error_bound)]
    return Estimate(value, *full, jnp.full(value.shape, Status.OK), given)


def test_bits_are_nats_over_log_two():
    assert math.log(2) == NATS_PER_BIT
    np.testing.assert_array_equal(estimate([math.log(2), math.log(1024), math.inf, 0]).bits, [1, 10, math.inf, 0])


@given(st.floats(-1e6, 1e6), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0.01, 0.999))
def test_interval_is_the_normal_one_plus_the_bound(value, stderr, bound, level):
    lower, upper = estimate(value, stderr, bound).interval(level)
    # Scale 1 at least: SciPy has no normal of width zero. 1e-12: two implementations of the quantile, good to 1e-14.
    expected = stats.norm.ppf((1 + level) / 2) * stderr + bound
    scale = abs(value) + expected + 1
    np.testing.assert_allclose([lower, upper], [value - expected, value + expected], rtol=0, atol=1e-12 * scale)


def test_interval_at_the_usual_level():
    lower, upper = estimate([10.0], 2.0, 0.5).interval()
    expected = stats.norm.interval(0.95, 10, 2)
    # Rounding of numbers near 10.
    np.testing.assert_allclose([lower[0] + 0.5, upper[0] - 0.5], expected, rtol=1e-14)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("error", [0.0, math.inf, math.nan])
def test_infinite_value_has_no_width(value, error):
    lower, upper = estimate(value, error, error).interval()
    assert lower == upper == value


def test_unknown_error_makes_an_unknown_interval():
    assert all(jnp.isnan(end) for end in estimate(1.0, math.nan).interval())


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, math.nan])
def test_level_out_of_range(level):
    with pytest.raises(ValueError, match=rf"^`level` must be strictly between 0 and 1, but {level!r} came$"):
        estimate(1.0).interval(level)


def test_pytree_has_arrays_for_leaves_and_given_in_its_structure():
    one = estimate([1.0, 2.0], 0.1)
    assert len(jax.tree.leaves(one)) == 4
    assert jax.tree.structure(one) == jax.tree.structure(estimate([3.0]))
    assert jax.tree.structure(one) != jax.tree.structure(estimate([1.0], given="other data"))


def test_passes_through_jit_with_given_static():
    seen = []

    @jax.jit
    def shift(e: Estimate) -> Estimate:
        seen.append(e.given)
        return jax.tree.map(lambda leaf: leaf + 1, e)

    out = shift(estimate([1.0, 2.0], 0.1))
    assert isinstance(out, Estimate)
    assert seen == ["some data"]
    assert out.given == "some data"
    np.testing.assert_array_equal(out.value, [2, 3])
    assert jnp.issubdtype(out.status.dtype, jnp.integer)


def test_vmap_equals_a_loop():
    stacked = estimate(np.arange(6.0).reshape(3, 2), 0.5, 0.25)
    lower, upper = jax.vmap(Estimate.interval)(stacked)
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        np.testing.assert_array_equal([lower[i], upper[i]], one.interval())
    assert jax.vmap(lambda e: e)(stacked).given == "some data"
