"""Each adapter against its library called directly, and what all of them promise alike.

Comparisons are exact where both sides run the same operations. Where compilation, batching or another library reorders
sums the tolerance is 1e-5: a few hundred roundings of float32.
"""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from genjax.models import from_equinox, from_flax, from_functions, from_haiku, from_nnx
from tests.models.libraries import (
    AFFINE,
    N_OUTPUTS,
    NETWORKS,
    RATE,
    FlaxNetwork,
    NnxNetwork,
    equinox_make,
    functions_affine,
    haiku_transformed,
)

KEY = jax.random.key(7)
# float32 as the modules' parameters: their statistics are float32 whatever the inputs.
X = jax.random.normal(jax.random.key(1), (6, 3), jnp.float32) * jnp.array([1, 2, 3], jnp.float32) + 1
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def assert_trees_equal(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def assert_trees_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), actual, expected)


networks = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
affine_maps = pytest.mark.parametrize("build", AFFINE.values(), ids=AFFINE)


# Against each library.


def test_functions_are_called_as_they_are():
    model = functions_affine()
    params, state = model.init(KEY, X)
    np.testing.assert_array_equal(params["w"], jax.random.normal(KEY, (3, N_OUTPUTS)))
    assert state == ()
    for mode in ({}, {"train": True, "key": KEY}):
        outputs, state = model.apply(params, state, X, **mode)
        np.testing.assert_array_equal(outputs, X @ params["w"])  # the bias is zero
        assert state == ()


def test_flax_agrees_with_the_module():
    model, module = NETWORKS["flax"](), FlaxNetwork()
    params, state = model.init(KEY, X)
    variables = module.init(KEY, X, train=False)
    assert_trees_equal({"params": params, **state}, variables)
    outputs, trained = model.apply(params, state, X, key=KEY, train=True)
    expected, updated = module.apply(variables, X, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    np.testing.assert_array_equal(outputs, expected)
    assert_trees_equal(trained, updated)
    evaluated, _ = model.apply(params, trained, X)
    np.testing.assert_array_equal(evaluated, module.apply({"params": params, **updated}, X, train=False))


@pytest.mark.parametrize("argument", ["train", "training", "is_training", "deterministic", "use_running_average"])
def test_flax_finds_the_argument_of_the_mode(argument):
    call = eval(f"lambda self, x, {argument}: x[:, :1] * 0 + {argument}")
    model = from_flax(type("Mode", (nn.Module,), {"__call__": call})())
    opposite = argument in ("deterministic", "use_running_average")
    assert model.init(KEY, X) == ({}, ())
    for train in (True, False):
        outputs, _ = model.apply({}, (), X, key=KEY, train=train)
        assert (outputs == (train != opposite)).all()


def test_flax_takes_the_name_of_the_mode():
    class Mode(nn.Module):
        def __call__(self, x, learning, train=0.5):
            return jnp.stack([x[:, 0] * 0 + learning, x[:, 0] * 0 + train], axis=1)

    outputs, _ = from_flax(Mode(), train_argument="learning").apply({}, (), X, key=KEY, train=True)
    np.testing.assert_array_equal(outputs[0], [1, 0.5])  # the detected name is left alone


def test_flax_module_of_another_precision_keeps_its_statistics_type():
    model = NETWORKS["flax"]()
    params, state = model.init(KEY, X)
    _, trained = model.apply(params, state, X.astype(jnp.float64), key=KEY, train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {jnp.dtype("float32")}


def test_nnx_agrees_with_the_module():
    def make(rngs):
        module = NnxNetwork(rngs)
        module.dropout = nnx.Dropout(0.0)
        return module

    model, module = from_nnx(make), make(nnx.Rngs(KEY))
    params, state = model.init(KEY, X)
    assert_trees_equal(params, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    assert_trees_equal(state, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    module.train()
    outputs, trained = model.apply(params, state, X, key=KEY, train=True)
    np.testing.assert_array_equal(outputs, module(X))
    assert_trees_equal(trained, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    module.eval()
    np.testing.assert_array_equal(model.apply(params, trained, X)[0], module(X))


def test_nnx_dropout_follows_the_key_alone():
    """Also where the module brings a stream of its own and would draw the same forever."""
    model = from_nnx(lambda _: nnx.Sequential(nnx.Dropout(RATE, rngs=nnx.Rngs(0)), nnx.Dropout(RATE, rngs=nnx.Rngs(0))))
    params, state = model.init(KEY, X)
    assert (params, state) == ({}, ())
    ones = jnp.ones((500, 20))
    keys = jax.random.split(KEY, 2)
    first, second = (model.apply({}, (), ones, key=key, train=True)[0] for key in keys)
    assert set(np.unique(first)) == {0, 1 / RATE**2}
    # Kept with probability 1 / 4 if the two layers draw independently, else 1 / 2; 5 standard errors of 1e4 draws.
    np.testing.assert_allclose((first > 0).mean(), 0.25, atol=5 * (0.25 * 0.75 / first.size) ** 0.5)
    assert (first != second).any()
    np.testing.assert_array_equal(model.apply({}, (), ones, key=keys[0], train=True)[0], first)


def test_nnx_intermediates_do_not_enter_the_state():
    class Remembering(nnx.Module):
        def __init__(self, rngs):
            self.map = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            self.seen = nnx.Intermediate(x)
            return self.map(x)

    model = from_nnx(Remembering)
    params, state = model.init(KEY, X)
    assert model.apply(params, state, X, key=KEY, train=True)[1] == ()


def test_equinox_agrees_with_the_module():
    eqx = pytest.importorskip("equinox")
    model = NETWORKS["equinox"]()
    module, state = equinox_make()(KEY)
    params, model_state = model.init(KEY, X)
    expected = [a for a in jax.tree.leaves(module) if eqx.is_inexact_array(a)]
    assert_trees_equal(jax.tree.leaves(params), expected)
    assert_trees_equal(jax.tree.leaves(model_state), [module.order, *jax.tree.leaves(state)])

    outputs, trained = model.apply(params, model_state, X, key=KEY, train=True)
    mapped = jax.vmap(lambda x, s, k: module(x, s, key=k), (0, None, 0), (0, None), axis_name="batch")
    expected, state = mapped(X, state, jax.random.split(KEY, len(X)))
    np.testing.assert_array_equal(outputs, expected)
    assert_trees_equal(jax.tree.leaves(trained)[1:], jax.tree.leaves(state))

    evaluating = eqx.nn.inference_mode(module)
    expected, _ = jax.vmap(evaluating, (0, None), (0, None), axis_name="batch")(X, state)
    np.testing.assert_array_equal(model.apply(params, trained, X)[0], expected)


def test_equinox_module_without_key_argument():
    eqx = pytest.importorskip("equinox")

    class Keyless(eqx.Module):
        map: eqx.nn.Linear

        def __call__(self, x):
            return self.map(x)

    model = from_equinox(lambda key: Keyless(eqx.nn.Linear(3, 2, key=key)))
    params, state = model.init(KEY, X)
    outputs, _ = model.apply(params, state, X, key=KEY, train=True)
    np.testing.assert_array_equal(outputs, jax.vmap(eqx.nn.Linear(3, 2, key=KEY))(X))


def test_haiku_agrees_with_the_function():
    model, transformed = NETWORKS["haiku"](), haiku_transformed()
    params, state = model.init(KEY, X)
    assert_trees_equal((params, state), transformed.init(KEY, X, is_training=True))
    outputs, trained = model.apply(params, state, X, key=KEY, train=True)
    expected, updated = transformed.apply(params, state, KEY, X, is_training=True)
    np.testing.assert_array_equal(outputs, expected)
    assert_trees_equal(trained, updated)
    expected, _ = transformed.apply(params, updated, None, X, is_training=False)
    np.testing.assert_array_equal(model.apply(params, trained, X)[0], expected)


# What all of them promise.


@networks
def test_population_equals_its_members(build):
    """Under ``jit`` and ``vmap`` over keys: initialization, a step in training mode and evaluation."""
    model = build()
    keys = jax.random.split(KEY, 3)

    def member(key):
        params, state = model.init(key, X)
        outputs, state = model.apply(params, state, X, key=key, train=True)
        return params, state, outputs, model.apply_fn(state)(params, X)

    together = jax.jit(jax.vmap(member))(keys)
    for i, key in enumerate(keys):
        assert_trees_close(jax.tree.leaves(jax.tree.map(lambda a, i=i: a[i], together)), jax.tree.leaves(member(key)))


@networks
def test_state_is_arrays_without_keys_and_can_be_carried(build):
    model = build()
    params, state = model.init(KEY, X)

    def step(state, key):
        return model.apply(params, state, X, key=key, train=True)[::-1]

    carried, _ = jax.lax.scan(step, state, jax.random.split(KEY, 2))  # refuses a change of structure or dtype
    leaves = jax.tree.leaves(state)
    assert leaves
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert not any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(carried), leaves, strict=True))


@networks
def test_training_mode_is_random_in_its_key_and_couples_the_batch(build):
    model = build()
    params, state = model.init(KEY, X)
    keys = jax.random.split(KEY, 2)
    first, again, other = (model.apply(params, state, X, key=keys[i], train=True)[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    _, whole = model.apply(params, state, X, key=KEY, train=True)
    _, part = model.apply(params, state, X[:2], key=KEY, train=True)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True))


@networks
def test_evaluation_mode_is_a_function_of_each_example(build):
    model = build()
    params, state = model.init(KEY, X)
    _, state = model.apply(params, state, X[:3], key=KEY, train=True)
    outputs, same = model.apply(params, state, X)
    assert same is state
    np.testing.assert_array_equal(model.apply(params, state, X, key=KEY)[0], outputs)
    np.testing.assert_allclose(model.apply(params, state, X[:2])[0], outputs[:2], **ROUNDING)
    # The running statistics are what it evaluates with: others give other outputs.
    assert (model.apply(params, model.init(KEY, X)[1], X)[0] != outputs).any()


@pytest.mark.parametrize("name", [*AFFINE, "flax network", "nnx network", "equinox network"])
def test_initialization_reads_shape_and_dtype_only(name):
    model = AFFINE[name]() if name in AFFINE else NETWORKS[name.removesuffix(" network")]()
    expected = model.init(KEY, X)
    for x in (jax.ShapeDtypeStruct(X.shape, X.dtype), X * jnp.nan, np.asarray(X)):
        assert_trees_equal(jax.tree.leaves(model.init(KEY, x)), jax.tree.leaves(expected))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(expected[0]))


def test_shape_stands_for_zeros_where_initialization_reads_the_data():
    model = NETWORKS["haiku"]()
    abstract = model.init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert_trees_equal(abstract, haiku_transformed().init(KEY, jnp.zeros_like(X), is_training=True))


@affine_maps
def test_stateless_models_have_the_empty_state(build):
    model = build()
    params, state = model.init(KEY, X)
    assert state == ()
    outputs, state = model.apply(params, state, np.asarray(X), key=KEY, train=True)
    assert state == ()
    np.testing.assert_array_equal(model.apply_fn()(params, X), outputs)


WEIGHTS = np.array([[0.5, -1.0], [2.0, 0.25], [-0.75, 1.5]])
BIASES = np.array([0.1, -0.2])
TARGETS = np.random.default_rng(0).normal(size=(len(X), N_OUTPUTS))


def canonical(leaf, values):
    """Weights ``[3, 2]`` in the leaf's layout: Equinox keeps them transposed."""
    return {(3, 2): values[0], (2, 3): values[0].T, (2,): values[1]}[leaf.shape]


@affine_maps
def test_one_step_of_gradient_descent_is_the_same_in_every_library(build):
    model = build()
    params, state = model.init(KEY, X)
    params = jax.tree.map(lambda leaf: jnp.asarray(canonical(leaf, (WEIGHTS, BIASES))), params)

    def loss_fn(params):
        outputs, _ = model.apply(params, state, X, key=KEY, train=True)
        return jnp.mean((outputs - TARGETS) ** 2)

    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.jit(jax.grad(loss_fn))(params))
    x = np.asarray(X, float)
    residual = 2 * (x @ WEIGHTS + BIASES - TARGETS) / TARGETS.size
    expected = (WEIGHTS - 0.1 * x.T @ residual, BIASES - 0.1 * residual.sum(0))
    # float64 parameters, but Flax and Haiku may multiply in the inputs' float32.
    jax.tree.map(lambda leaf: np.testing.assert_allclose(leaf, canonical(leaf, expected), **ROUNDING), stepped)


# Errors.


def haiku_untransformed():
    pytest.importorskip("haiku")
    from_haiku(lambda x: x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: from_functions(None, abs), "`init` must be a function, but NoneType came"),
        (lambda: from_functions(abs, 3), "`apply` must be a function, but int came"),
        (
            lambda: from_flax(FlaxNetwork),
            "`module` must be an instance of flax.linen.Module, but the class FlaxNetwork",
        ),
        (lambda: from_nnx(NnxNetwork(nnx.Rngs(0))), "`make` must be a function that builds .* but NnxNetwork came"),
        (lambda: from_equinox(equinox_make()(KEY)[0]), "`make` must be a function .* but EquinoxNetwork came"),
        (lambda: from_nnx("mlp"), "`make` must be a function .* but str came"),
        (haiku_untransformed, "`transformed` must come from hk.transform or hk.transform_with_state"),
    ],
    ids=["init", "apply", "flax", "nnx", "equinox", "text", "haiku"],
)
def test_wrong_kind_of_model(build, message):
    with pytest.raises(TypeError, match=message):
        build()


def test_argument_of_the_mode_must_exist():
    with pytest.raises(ValueError, match=r"`train_argument` must be .* one of inputs, but 'train' came"):
        from_flax(nn.Dense(2), train_argument="train")


@pytest.mark.parametrize("key", [None, jax.random.PRNGKey(0)], ids=["none", "untyped"])
def test_keys_are_typed(key):
    model = functions_affine()
    params, state = model.init(KEY, X)
    with pytest.raises(TypeError, match=r"`key` must be a typed key from jax.random.key"):
        model.apply(params, state, X, key=key, train=True)
    with pytest.raises(TypeError, match=r"`key` must be a typed key from jax.random.key"):
        model.init(key, X)


@pytest.mark.parametrize(
    ("apply", "error", "message"),
    [
        (lambda _, x: x[:, 0], ValueError, r"outputs of shape \[6, c\] for 6 inputs, but theirs is \(6,\)"),
        (lambda _, x: x[:1], ValueError, r"theirs is \(1, 3\)"),
        (lambda _, x: (x, ()), TypeError, "one array of outputs, but tuple came"),
    ],
    ids=["vector", "rows", "tuple"],
)
def test_outputs_are_a_matrix_of_one_row_per_input(apply, error, message):
    with pytest.raises(error, match=message):
        from_functions(lambda key: {}, apply).apply({}, (), X)


def test_other_libraries_load_on_first_use():
    code = "import sys, genjax.models; print({'flax', 'equinox', 'haiku', 'optax'} & set(sys.modules))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert seen.stdout == "set()\n"
