import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.ntk.empirical import empirical_ntk
from genjax.ntk.taylor import linearize, taylor_expand

X = jnp.linspace(-1, 1, 5)[:, None]
START = {"w": jnp.array([[0.3, -0.8]]), "v": jnp.array([[0.5], [1.5]])}


def net(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def moved(step):
    return jax.tree.map(lambda leaf: leaf + step * jnp.cos(leaf), START)


def test_a_polynomial_of_the_parameters_is_its_own_expansion():
    """(w x)^3 has degree 3: lower degrees are its truncated binomial series, higher ones change nothing."""
    cube = lambda w, x: (w * x) ** 3  # noqa: E731
    for degree, exact in ((1, 1 + 3 * 0.5), (2, 1 + 3 * 0.5 + 3 * 0.25), (3, 1.5**3), (5, 1.5**3)):
        assert float(taylor_expand(cube, 1.0, degree)(1.5, 1.0)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_error_falls_as_the_next_power_of_the_step(degree):
    errors = [np.abs(taylor_expand(net, START, degree)(moved(h), X) - net(moved(h), X)).max() for h in (2e-2, 1e-2)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(degree + 1, abs=0.15)


def test_the_tangent_keeps_its_jacobian():
    line = linearize(net, START)
    here, there = (jax.jacrev(line)(params, X) for params in (START, moved(0.7)))
    jax.tree.map(np.testing.assert_array_equal, here, there)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), here, jax.jacrev(net)(START, X))


def test_as_an_argument_of_a_compiled_function_it_compiles_once():
    traces = []

    @jax.jit
    def evaluate(function, params):
        traces.append(None)
        return function(params, X)

    for step in (0.0, 0.1):
        evaluate(taylor_expand(net, moved(step), 2), START)
    assert len(traces) == 1


def test_its_kernel_compiles_once_for_all_expansions():
    """The parameters it was expanded at are arguments of the compiled kernel, not constants inside it."""
    traces = []

    def counted(params, x):
        traces.append(None)
        return net(params, x)

    for step in (0.0, 0.1):
        before = len(traces)
        gram = empirical_ntk(linearize(counted, moved(step)), START, X)
        np.testing.assert_allclose(gram, empirical_ntk(net, moved(step), X), atol=1e-12)
    assert len(traces) == before


def test_bad_degree():
    with pytest.raises(ValueError, match="`degree`"):
        taylor_expand(net, START, 0)
