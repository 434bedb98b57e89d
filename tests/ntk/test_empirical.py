"""Kernels by rules against the Gram matrix of whole Jacobians.

Both sides run in float64 and differ in the order of sums only, hence 1e-9 (some sums have 1e4 terms of mixed sign).
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from genjax.models import from_equinox, from_flax, from_haiku, from_nnx
from genjax.ntk import empirical
from genjax.ntk.contractions import Outer, contract, instantiate
from genjax.ntk.empirical import ParameterReport, empirical_nngp, empirical_ntk, ntk_report

ROUNDING = {"rtol": 1e-9, "atol": 1e-9}
KEY = jax.random.key(5)
FLAT, IMAGES, TOKENS = (4, 3), (4, 6, 6, 2), (4, 5)


def inputs(shape):
    if shape is TOKENS:
        return jax.random.randint(jax.random.key(1), shape, 0, 7)
    return jax.random.normal(jax.random.key(1), shape)


def jacobian_gram(apply_fn, params, x1, x2=None):
    """``[n1, n2, c, c]``"""

    def flat(x):
        one = lambda p, a: apply_fn(p, a[None]).reshape(-1)  # noqa: E731
        jacobian = jax.tree.leaves(jax.vmap(jax.jacrev(one), (None, 0))(params, x))
        return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jacobian], axis=2)

    j1 = flat(x1)
    return jnp.einsum("iop,jqp->ijoq", j1, j1 if x2 is None else flat(x2))


def reduced(gram, outputs):
    c = gram.shape[2]
    return {
        "trace": jnp.einsum("ijoo->ij", gram) / c,
        "diag": jnp.einsum("ijoo->ijo", gram),
        "full": gram,
        "sum": gram.sum((2, 3)) / c,
    }[outputs]


def normals(shapes, scale=1.0):
    """Drawn by numpy, which compiles nothing."""
    rng = np.random.default_rng(0)
    is_shape = lambda s: isinstance(s, tuple) and all(isinstance(n, int) for n in s)  # noqa: E731
    return jax.tree.map(lambda s: jnp.asarray(scale * rng.normal(size=s)), shapes, is_leaf=is_shape)


# Networks: a function, its parameters and the shape of its inputs.


def perceptron(params, x):
    h = jnp.tanh(x @ (params["w"] * 0.7) + params["b"])
    return (h * (1 + params["s"])) @ params["v"] / 2 - params["c"]


PERCEPTRON = {"w": (3, 7), "b": (7,), "s": (7,), "v": (7, 2), "c": (2,)}


def by_hand():
    return perceptron, normals(PERCEPTRON), FLAT


def library(model, shape):
    """In double precision, with random parameters and statistics: none is at its special initial value."""
    params, state = jax.eval_shape(model.init, KEY, inputs(shape))
    params = normals(jax.tree.map(lambda leaf: leaf.shape, params), 0.5)
    return model.apply_fn(jax.tree.map(lambda leaf: 1 + normals(leaf.shape, 0.2), state)), params, shape


class LinenPerceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.gelu(nn.LayerNorm()(nn.Dense(6)(x)))
        return nn.Dense(2)(nn.remat(nn.Dense)(5)(x))


class LinenAttention(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.Embed(7, 4)(x) + self.param("position", nn.initializers.normal(), (5, 4))
        h = h + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(h))
        return nn.Dense(2)(h.mean(1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.tanh(nn.LayerNorm()(nn.Dense(3)(x))), None


class LinenScan(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2)(layers()(x, None)[0])


class LinenConv(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), (1, 1))
        x = nn.Conv(6, (3, 2), strides=(2, 1), kernel_dilation=(1, 2), feature_group_count=2, padding="VALID")(x)
        x = nn.ConvTranspose(3, (2, 2), strides=(2, 2))(nn.relu(x))
        return nn.Dense(2)(x.reshape(len(x), -1))


class LinenRecurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.GRUCell(4, param_dtype=float))(x)[:, -1])


class NnxPerceptron(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.RMSNorm(5, rngs=rngs)
        self.last = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.silu(self.norm(self.first(x))))


def equinox_network():
    import equinox as eqx

    class Network(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.GroupNorm
        head: eqx.nn.MLP

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(2, 4, 3, groups=2, key=key)
            self.norm = eqx.nn.GroupNorm(2, 4)
            self.head = eqx.nn.MLP(4, 2, 3, 1, key=key)

        def __call__(self, x):
            return self.head(jax.nn.relu(self.norm(self.conv(jnp.moveaxis(x, -1, 0)))).mean((1, 2)))

    return library(from_equinox(Network), IMAGES)


def haiku_network():
    import haiku as hk

    def network(x):
        x = hk.Embed(7, 4)(x)
        x = jax.nn.relu(hk.Conv1D(4, 3)(x))
        return hk.nets.MLP([3, 2])(hk.LayerNorm(-1, True, True)(x).mean(1))

    return library(from_haiku(hk.transform(network)), TOKENS)


def tied():
    """A weight used twice, a slice of one, a factor from two parameters."""

    def apply(params, x):
        h = jnp.tanh(x @ params["w"])
        h = jnp.tanh(h @ params["w"].T) @ params["w"] + params["pieces"][:4]
        return h * params["pieces"][4:] @ (params["low"] @ params["rank"])

    return apply, normals({"w": (3, 4), "pieces": (8,), "low": (4, 1), "rank": (1, 2)}), FLAT


def unrecognized():
    """Parameters under a square, in a reciprocal and inside a function with its own derivative; one never used."""

    def apply(params, x):
        h = jax.nn.relu(x / params["scale"] ** 2 + params["shift"])
        return jax.nn.softplus(params["sharp"]) * h @ params["v"]

    return apply, normals({"scale": (3,), "shift": (3,), "sharp": (3,), "v": (3, 2), "unused": (4,)}), FLAT


def own_derivative():
    """Rules must not look inside: the derivative given by the user is what counts."""

    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, 2 * saved[0].T @ g))
    return lambda params, x: product(jnp.tanh(x @ params["a"]), params["b"]), normals({"a": (3, 4), "b": (4, 2)}), FLAT


def loops():
    """Scans in a scan: weights whole, sliced by either loop, and scaled by what the loop carries along."""

    def apply(params, x):
        def outer(h, step):
            weight, gains = step

            def inner(h, gain):
                return jnp.tanh(h @ params["whole"] + h @ weight) * gain + params["bias"], h.sum()

            h, sums = jax.lax.scan(inner, h, gains, reverse=True)
            return h, sums.sum()

        h, sums = jax.lax.scan(outer, x, (params["weights"] * 0.5, params["gains"]))
        # Weights that pass a loop and are used behind it, idle in it or carried along.
        (h, carried), _ = jax.lax.scan(lambda c, idle: (c, None), (h, params["carried"]), params["v"])
        return (h * carried + sums.sum()) @ params["v"]

    return (
        apply,
        normals(
            {"whole": (3, 3), "bias": (3,), "weights": (2, 3, 3), "gains": (2, 4, 3), "v": (3, 2), "carried": (3,)}
        ),
        FLAT,
    )


def products():
    """Products with the weight first, with groups, with several contracted axes; lookups by one and two axes."""

    def apply(params, x):
        h = jnp.einsum("ab,nb->an", params["first"], x)
        h = jnp.einsum("an,nb,gabc->nagc", h, x, params["both"])
        h = jnp.einsum("nagc,gce->nage", jnp.tanh(h), params["groups"])
        rows = jnp.argmax(h[:, :, 0, :3], axis=-1)
        h = h * params["table"][rows][:, :, None] + params["axes"][:, None]
        return (jnp.sum(jnp.sin(h), (1, 2)) * params["one"]) @ params["v"] + params["zero"]

    shapes = {"first": (4, 3), "both": (2, 4, 3, 5), "groups": (2, 5, 3), "table": (3, 3), "axes": (4, 1), "one": ()}
    return apply, normals(shapes | {"v": (3, 2), "zero": ()}), FLAT


NETWORKS = {
    "by hand": by_hand,
    "linen perceptron, layer norm, remat": lambda: library(from_flax(LinenPerceptron()), FLAT),
    "linen attention, embedding": lambda: library(from_flax(LinenAttention()), TOKENS),
    "linen scan": lambda: library(from_flax(LinenScan()), FLAT),
    "linen convolutions, pooling, batch norm": lambda: library(from_flax(LinenConv()), IMAGES),
    "linen recurrent": lambda: library(from_flax(LinenRecurrent()), (4, 5, 3)),
    "nnx": lambda: library(from_nnx(NnxPerceptron), FLAT),
    "equinox": equinox_network,
    "haiku": haiku_network,
    "tied": tied,
    "unrecognized": unrecognized,
    "own derivative": own_derivative,
    "loops": loops,
    "products": products,
}
RULES = {
    "by hand": {"dense", "bias", "scale"},
    "linen perceptron, layer norm, remat": {"dense", "bias", "scale"},
    "linen attention, embedding": {"dense", "bias", "scale", "embedding"},
    "linen scan": {"dense", "bias", "scale"},
    "linen convolutions, pooling, batch norm": {"conv", "dense", "bias", "scale"},
    "linen recurrent": {"dense", "bias"},
    "nnx": {"dense", "bias", "scale"},
    "equinox": {"conv", "dense", "bias", "scale"},
    "haiku": {"embedding", "conv", "dense", "bias", "scale"},
    "tied": {"jacobian"},
    "unrecognized": {"jacobian", "dense", "bias", "unused"},
    "own derivative": {"dense", "jacobian"},
    "loops": {"dense", "scale", "bias", "jacobian"},
    "products": {"dense", "embedding", "scale", "bias"},
}


# The recurrent network repeats what "loops" covers, at the price of a large program.
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "recurrent" in n else n for n in NETWORKS])
def test_equals_the_gram_matrix_of_jacobians(name):
    apply_fn, params, shape = NETWORKS[name]()
    x = inputs(shape)
    assert {entry.rule for entry in ntk_report(apply_fn, params, x)} == RULES[name]
    expected = jax.jit(functools.partial(jacobian_gram, apply_fn))(params, x)
    kernel = empirical_ntk(apply_fn, params, x, outputs="full")
    np.testing.assert_allclose(kernel, expected, **ROUNDING)


@pytest.mark.parametrize("outputs", ["trace", "diag", "full"])
@pytest.mark.parametrize("table", [False, True], ids=["matrix", "table"])
def test_gram_of_factors_equals_gram_of_gradients(outputs, table):
    """Several groups and positions; of a table rows met twice, and by one example never."""
    rows = jnp.array([[0, 2, 2], [1, 1, -1], [-1, -1, -1]])
    a1, a2 = normals([(3, 2, 3, 4), (2, 2, 3, 4)])
    if table:
        a1, a2 = rows[:, None], rows[:2, None]
    g = a1.shape[1]
    b1, b2 = normals([(3, 2, g, 3, 5), (2, 2, g, 3, 5)])
    factors = Outer(a1, b1), Outer(a2, b2)
    gradients = [jax.jit(instantiate, static_argnums=1)(factor, 4) for factor in factors]
    assert gradients[0].values.shape == (3, 2, g, 4, 5)
    product = jax.jit(contract, static_argnums=2)
    np.testing.assert_allclose(product(*factors, outputs), product(*gradients, outputs), **ROUNDING)
    if table:
        np.testing.assert_array_equal(gradients[0].values[1, :, 0, 1], b1[1, :, 0, 0] + b1[1, :, 0, 1])


X1, X2 = jax.random.normal(jax.random.key(2), (11, 3)), jax.random.normal(jax.random.key(3), (5, 3))


@pytest.fixture(scope="module")
def grams():
    params = normals(PERCEPTRON)
    both = jax.jit(functools.partial(jacobian_gram, perceptron))(params, jnp.concatenate([X1, X2]))
    return params, both[:11, :11], both[:11, 11:]


# One tile; tiles kept; tiles recomputed, down to single examples. Their sizes do not divide 11.
TILES = [(o, 2**30) for o in ("trace", "diag", "full", "sum")]
TILES += [("trace", 20_000), ("full", 10_000), ("diag", 20_000), ("sum", 1)]


@pytest.mark.parametrize(("outputs", "max_bytes"), TILES)
def test_outputs_and_tiles(grams, outputs, max_bytes):
    params, symmetric, rectangular = grams
    kernel = functools.partial(empirical_ntk, perceptron, params, outputs=outputs, max_bytes=max_bytes)
    gram = kernel(X1)
    np.testing.assert_allclose(gram, reduced(symmetric, outputs), **ROUNDING)
    mirrored = gram.transpose(1, 0, 3, 2) if outputs == "full" else jnp.swapaxes(gram, 0, 1)
    np.testing.assert_array_equal(gram, mirrored)
    np.testing.assert_allclose(kernel(X1, X2), reduced(rectangular, outputs), **ROUNDING)
    np.testing.assert_array_equal(kernel(X1, X1), gram)


@pytest.mark.parametrize(("budget", "n"), [(2**30, 11), (20_000, 11), (10_000, 11), (1, 11), (400, 1)])
def test_tiles_fit_and_are_as_equal_as_can_be(budget, n):
    size = empirical._tile_size(1000, 10, budget, n)
    assert 1 <= size <= n
    assert size == 1 or 1000 * size + 10 * size**2 <= budget
    n_tiles = math.ceil(n / size)
    assert n_tiles * size - n < n_tiles


def test_temporary_memory_is_bounded():
    """By what the compiler says of the program, for an activation-heavy and a weight-heavy network."""
    wide = normals({"w": (3, 300), "b": (300,), "s": (300,), "v": (300, 2), "c": (2,)})
    x = jax.random.normal(KEY, (200, 3))
    for max_bytes in (2**19, 2**21):
        lowered = empirical._empirical_ntk.lower(Partial(perceptron), wide, x, None, "trace", "auto", max_bytes)
        assert lowered.compile().memory_analysis().temp_size_in_bytes <= max_bytes + 2 * 8 * 200**2


def test_jacobian_method_agrees_and_structured_names_what_it_lacks(grams):
    params, symmetric, _ = grams
    gram = empirical_ntk(perceptron, params, X1, method="jacobian", outputs="full")
    np.testing.assert_allclose(gram, symmetric, **ROUNDING)
    assert {entry.rule for entry in ntk_report(perceptron, params, X1, method="jacobian")} == {"jacobian"}
    np.testing.assert_allclose(
        empirical_ntk(perceptron, params, X1, method="structured"), reduced(symmetric, "trace"), **ROUNDING
    )
    apply_fn, weights, shape = unrecognized()
    with pytest.raises(ValueError, match=r"`method` must be 'auto'.*`params\['scale'\]`, `params\['sharp'\]`"):
        empirical_ntk(apply_fn, weights, inputs(shape), method="structured")


def test_seeds_are_mapped_in_one_compilation():
    stack = normals({name: (8, *shape) for name, shape in PERCEPTRON.items()})
    traced = []

    def counted(params, x):
        traced.append(x.shape)
        return perceptron(params, x)

    kernels = jax.jit(jax.vmap(lambda params: empirical_ntk(counted, params, X1, max_bytes=20_000)))
    got = kernels(stack)
    n_traced = len(traced)
    assert kernels(jax.tree.map(lambda leaf: leaf + 1, stack)).shape == (8, 11, 11)
    assert len(traced) == n_traced == 1
    expected = jax.jit(jax.vmap(lambda params: reduced(jacobian_gram(perceptron, params, X1), "trace")))(stack)
    np.testing.assert_allclose(got, expected, **ROUNDING)
    np.testing.assert_array_equal(got, jnp.swapaxes(got, 1, 2))


def test_single_precision_is_close_to_double(grams):
    params, symmetric, _ = grams
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    gram = empirical_ntk(perceptron, single, X1.astype(jnp.float32))
    assert gram.dtype == jnp.float32
    exact = reduced(symmetric, "trace")
    # Inputs, parameters and sums of tens of terms are each rounded to 6e-8.
    np.testing.assert_allclose(gram, exact, rtol=2e-6, atol=2e-6 * float(jnp.max(jnp.abs(exact))))


def test_half_precision_is_summed_in_single():
    w, x = jnp.ones((1000, 1), jnp.bfloat16), jnp.ones((2, 1000), jnp.bfloat16)
    gram = empirical_ntk(lambda w, x: x @ w, w, x)
    assert gram.dtype == jnp.float32
    np.testing.assert_array_equal(gram, jnp.full((2, 2), 1000.0))  # bfloat16 stops counting at 256


def test_a_kernel_can_be_differentiated(grams):
    params, _, _ = grams

    def mean(params, max_bytes):
        return jnp.mean(empirical_ntk(perceptron, params, X1[:5], max_bytes=max_bytes))

    exact = jax.jit(jax.grad(lambda p: jnp.mean(reduced(jacobian_gram(perceptron, p, X1[:5]), "trace"))))
    expected = exact(params)
    for max_bytes in (2**30, 1):
        got = jax.jit(jax.grad(mean), static_argnums=1)(params, max_bytes)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), got, expected)


def test_scalar_outputs_and_pytrees_of_functions(grams):
    params, symmetric, _ = grams
    first = Partial(lambda scale, params, x: scale * perceptron(params, x)[:, 0], 2.0)
    for outputs in ("trace", "sum"):
        np.testing.assert_allclose(
            empirical_ntk(first, params, X1, outputs=outputs), 4 * symmetric[:, :, 0, 0], **ROUNDING
        )
    assert empirical_ntk(first, params, X1, outputs="full").shape == (11, 11, 1, 1)


def test_nngp_is_the_second_moment_of_outputs(grams):
    params, _, _ = grams
    outputs1, outputs2 = perceptron(params, X1), perceptron(params, X2)
    gram = empirical_nngp(perceptron, params, X1)
    np.testing.assert_allclose(gram, outputs1 @ outputs1.T / 2, **ROUNDING)
    np.testing.assert_array_equal(gram, gram.T)
    np.testing.assert_allclose(empirical_nngp(perceptron, params, X1, X2), outputs1 @ outputs2.T / 2, **ROUNDING)


def test_report_shows_the_choice():
    def apply(params, tokens):
        return (params["table"][tokens] @ params["w"]).mean(1)

    params = normals({"table": (1000, 4), "w": (4, 50)})
    report = ntk_report(apply, params, jnp.zeros((3, 5), int), outputs="sum")
    assert report == (
        # 5 positions: rows and cotangents; the gradient itself, not five of its factors.
        ParameterReport("['table']", "embedding", "gram", 8 * (5 + 5 * 4)),
        ParameterReport("['w']", "dense", "gradient", 8 * 4 * 50),
    )


def test_bad_arguments_are_named():
    params = normals(PERCEPTRON)
    for arguments, error, message in [
        ({"outputs": "mean"}, ValueError, "`outputs` must be one of"),
        ({"method": "fast"}, ValueError, "`method` must be one of"),
        ({"max_bytes": 0}, ValueError, "`max_bytes` must be a positive whole number"),
        ({"x2": X2[:, :2]}, ValueError, r"`x1` and `x2` must hold inputs of one shape, but .*\(11, 3\) and \(5, 2\)"),
        ({"x1": X1[:0]}, ValueError, "`x1` must hold at least one example"),
        ({"params": {"w": "text"}}, TypeError, r"`params\['w'\]` is a str"),
        ({"params": {}}, ValueError, "`params` must hold a floating array"),
        ({"apply_fn": lambda p, x: p["w"] * x[:, :, None]}, ValueError, r"for n = 1 its shape is \(1, 3, 7\)"),
        ({"apply_fn": lambda p, x: perceptron(p, x).sum()}, ValueError, r"its shape is \(\)"),
        ({"apply_fn": lambda p, x: perceptron(p, x) > 0}, TypeError, "`apply_fn` must return floats"),
        ({"apply_fn": lambda p, x: (x, x)}, ValueError, "`apply_fn` must return one array"),
    ]:
        call = {"apply_fn": perceptron, "params": params, "x1": X1} | arguments
        if arguments.get("params") == {}:
            call["apply_fn"] = lambda p, x: x
        with pytest.raises(error, match=message):
            empirical_ntk(**call)
