"""Models as values: equality, static arguments of compiled functions, and the hypothesis they give."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from genjax.models import Model, from_flax, from_haiku, from_nnx
from tests.models.libraries import NETWORKS, haiku_transformed

KEY = jax.random.key(7)
X = jax.random.normal(jax.random.key(1), (6, 3), jnp.float32)
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}  # compilation reorders sums: a few hundred roundings of float32


def test_model_is_no_more_than_its_two_functions():
    """A model written without any adapter works as well."""
    model = Model(lambda key, x: ({}, ()), lambda params, state, x, *, key=None, train=False: (2 * x, state))
    np.testing.assert_array_equal(model.apply_fn()({}, X), 2 * X)


def test_equal_modules_give_equal_models_and_compile_once():
    models = [from_flax(nn.Dense(2)), from_flax(nn.Dense(2))]
    assert models[0] == models[1] != from_flax(nn.Dense(3))
    assert hash(models[0]) == hash(models[1])
    assert models[0].apply_fn() == models[1].apply_fn()
    traces = []

    @jax.jit
    def evaluate(apply_fn, params):
        traces.append(apply_fn)
        return apply_fn(params, X)

    params, _ = models[0].init(KEY, X)
    for model in models:
        evaluate(jax.tree_util.Partial(model.apply_fn()), params)
    assert len(traces) == 1


def test_models_of_one_function_are_equal():
    def make(rngs):
        return nnx.Linear(3, 2, rngs=rngs)

    assert from_nnx(make) == from_nnx(make) != from_nnx(lambda rngs: make(rngs))


def test_haiku_models_of_one_function_are_equal():
    transformed = haiku_transformed()
    assert from_haiku(transformed) == from_haiku(transformed) != NETWORKS["haiku"]()


def test_module_that_cannot_be_hashed_still_makes_a_static_argument():
    model = from_flax(nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]))
    init = jax.jit(lambda model, key: model.init(key, X), static_argnums=0)
    compiled, _ = init(model, KEY)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), compiled, model.init(KEY, X)[0])


def test_hypothesis_with_state_is_an_argument_like_any_other():
    model = NETWORKS["flax"]()
    params, state = model.init(KEY, X)
    _, trained = model.apply(params, state, X, key=KEY, train=True)
    traces = []

    @jax.jit
    def evaluate(apply_fn, params):
        traces.append(apply_fn)
        return apply_fn(params, X)

    for s in (state, trained):
        np.testing.assert_allclose(evaluate(model.apply_fn(s), params), model.apply(params, s, X)[0], **ROUNDING)
    assert len(traces) == 1
