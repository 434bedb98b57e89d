"""The built-in networks against NumPy and SciPy, and the closed forms of their sizes and initial weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.special import erf, expit

from genjax import models
from genjax.models import ACTIVATIONS, MODELS, cnn, linear, mlp

KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(1), (5, 2, 3))
IMAGES = jax.random.normal(jax.random.key(2), (3, 9, 8, 2))
# float64 throughout: a few hundred roundings of 2e-16.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}


def n_parameters(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def affine(layer, x):
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def with_biases(params, scale=0.3):
    """Biases start as zeros, which would hide them."""
    leaves, structure = jax.tree.flatten(params)
    noise = [scale * jax.random.normal(jax.random.fold_in(KEY, i), leaf.shape) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, [leaf + n for leaf, n in zip(leaves, noise, strict=True)])


# Sizes and initial weights.


@pytest.mark.parametrize(
    ("model", "x", "n_expected"),
    [
        (linear(4), X, (6 + 1) * 4),
        (mlp(4, 8, 1), X, (6 + 1) * 8 + (8 + 1) * 4),
        (mlp(4, 8, 3), X, (6 + 1) * 8 + 2 * (8 + 1) * 8 + (8 + 1) * 4),
        (mlp(4, 8, 3, batch_norm=True, dropout=0.5), X, (6 + 1) * 8 + 2 * (8 + 1) * 8 + (8 + 1) * 4 + 3 * 2 * 8),
        (cnn(4, (3, 5)), IMAGES, (9 * 2 + 1) * 3 + (9 * 3 + 1) * 5 + (2 * 2 * 5 + 1) * 4),
        (cnn(4, (3, 5), batch_norm=True), IMAGES, (9 * 2 + 1) * 3 + (9 * 3 + 1) * 5 + (20 + 1) * 4 + 2 * (3 + 5)),
    ],
    ids=["linear", "mlp-1", "mlp-3", "mlp-norm", "cnn", "cnn-norm"],
)
def test_number_of_parameters(model, x, n_expected):
    params, _ = jax.eval_shape(lambda key: model.init(key, x), KEY)
    assert n_parameters(params) == n_expected


def test_initial_weights_have_variance_one_over_fan_in():
    params, state = mlp(2, width=300, depth=2).init(KEY, jax.ShapeDtypeStruct((1, 200), float))
    assert state == ()
    for layer, fan_in in (("Dense_0", 200), ("Dense_1", 300)):
        kernel = params[layer]["kernel"]
        # A variance of n draws errs by less than its variance times sqrt(2 / n) (tails are cut); 5 of these.
        np.testing.assert_allclose(kernel.var() * fan_in, 1, atol=5 * (2 / kernel.size) ** 0.5)
        assert not params[layer]["bias"].any()


# Outputs.


def test_linear_is_an_affine_map_of_flat_inputs():
    model = linear(4)
    params = with_biases(model.init(KEY, X)[0])
    outputs, state = model.apply(params, (), X)
    np.testing.assert_allclose(outputs, affine(params["Dense_0"], np.asarray(X).reshape(5, 6)), **ROUNDING)
    assert state == ()


BY_HAND = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    # The usual approximation by tanh; the exact one is z (1 + erf(z / sqrt 2)) / 2, see below.
    "gelu": lambda z: z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2,
    "silu": lambda z: z * expit(z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "softplus": lambda z: np.logaddexp(z, 0),
    "sigmoid": expit,
    "identity": lambda z: z,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_agrees_with_numpy(activation):
    model = mlp(3, 7, 2, activation)
    params = with_biases(model.init(KEY, X)[0])
    hidden = np.asarray(X).reshape(5, 6)
    for layer in ("Dense_0", "Dense_1"):
        hidden = BY_HAND[activation](affine(params[layer], hidden))
    np.testing.assert_allclose(model.apply(params, (), X)[0], affine(params["Dense_2"], hidden), **ROUNDING)


def test_gelu_by_hand_is_near_the_exact_one():
    z = np.linspace(-5, 5, 101)
    # The approximation's known largest error is below 5e-4.
    np.testing.assert_allclose(BY_HAND["gelu"](z), z * (1 + erf(z / 2**0.5)) / 2, atol=5e-4)


def test_mlp_batch_normalization_agrees_with_numpy():
    model = mlp(3, 7, 1, batch_norm=True)
    params, state = model.init(KEY, X)
    params = with_biases(params)
    z = affine(params["Dense_0"], np.asarray(X).reshape(5, 6))
    scale, shift = (np.asarray(params["BatchNorm_0"][name]) for name in ("scale", "bias"))

    def by_hand(mean, variance):
        hidden = np.maximum((z - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0)
        return affine(params["Dense_1"], hidden)

    outputs, trained = model.apply(params, state, X, key=KEY, train=True)
    # Flax computes E[z^2] - E[z]^2, a cancellation worth a few digits.
    np.testing.assert_allclose(outputs, by_hand(z.mean(0), z.var(0)), rtol=1e-10, atol=1e-11)
    mean, variance = 0.1 * z.mean(0), 0.9 + 0.1 * z.var(0)
    statistics = trained["batch_stats"]["BatchNorm_0"]
    # Flax holds them in float32.
    np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(statistics["var"], variance, rtol=1e-6)
    np.testing.assert_allclose(model.apply(params, trained, X)[0], by_hand(mean, variance), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [mlp(2, 16, 1, dropout=0.25), cnn(2, (4,), dropout=0.25)], ids=["mlp", "cnn"])
def test_dropout_is_right_on_average(model):
    """Only an affine map follows, so the mean over masks is the output without dropout."""
    params, _ = model.init(KEY, IMAGES)
    keys = jax.random.split(KEY, 1000)
    draws = jax.jit(jax.vmap(lambda key: model.apply(params, (), IMAGES, key=key, train=True)[0]))(keys)
    spread = draws.std(0)
    assert (spread > 0).all()
    expected, _ = model.apply(params, (), IMAGES)
    assert (np.abs(draws.mean(0) - expected) < 5 * spread / 1000**0.5).all()


def test_cnn_agrees_with_scipy():
    model = cnn(4, (3,), "tanh")
    params = with_biases(model.init(KEY, IMAGES)[0])
    kernel, bias = (np.asarray(params["Conv_0"][name]) for name in ("kernel", "bias"))
    pooled = np.empty((3, 4, 4, 3))
    for n, image in enumerate(np.asarray(IMAGES)):
        for out in range(3):
            z = sum(correlate2d(image[..., c], kernel[..., c, out], "same") for c in range(2)) + bias[out]
            # 9 rows: the last is dropped.
            pooled[n, ..., out] = np.tanh(z)[:8].reshape(4, 2, 4, 2).mean((1, 3))
    expected = affine(params["Dense_0"], pooled.reshape(3, -1))
    np.testing.assert_allclose(model.apply(params, (), IMAGES)[0], expected, **ROUNDING)


def test_images_without_channels_have_one():
    model = cnn(4, (3,))
    grey = IMAGES[..., 0]
    params, _ = model.init(KEY, grey)
    np.testing.assert_array_equal(model.apply(params, (), grey)[0], model.apply(params, (), grey[..., None])[0])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.int32])
def test_precision_is_that_of_the_inputs(dtype):
    x = (10 * IMAGES).astype(dtype)
    expected = jnp.dtype(float) if dtype is jnp.int32 else dtype
    for model in (linear(2), mlp(2, 4, 1), cnn(2, (3,))):
        params, _ = model.init(KEY, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(expected)}
        assert model.apply(params, (), x)[0].dtype == expected


# Values, not identities.


def test_equal_descriptions_give_equal_models():
    for build in (linear, mlp, cnn):
        assert build(3) == build(3) != build(4)
        assert hash(build(3)) == hash(build(3))
    assert cnn(3, [8, 8]) == cnn(3, (8, 8))
    assert mlp(3, dropout=0) == mlp(3)
    assert len({mlp(3), mlp(3), mlp(3, 64), mlp(3, activation="tanh"), mlp(3, batch_norm=True)}) == 4


def test_models_are_the_factories():
    assert all(callable(getattr(models, name)) for name in MODELS)
    assert set(BY_HAND) == set(ACTIVATIONS)


# Errors.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: linear(0), "`n_outputs` must be a positive whole number, but 0 came"),
        (lambda: mlp(2, width=1.5), "`width` must be a positive whole number, but 1.5 came"),
        (lambda: mlp(2, depth=0), "`depth` must be a positive whole number, but 0 came"),
        (lambda: mlp(2, activation="swish"), "`activation` must be one of 'relu', .*, but 'swish' came"),
        (lambda: mlp(2, dropout=1.0), r"`dropout` must be a probability in \[0, 1\), but 1.0 came"),
        (lambda: cnn(2, ()), "`channels` must name at least one block"),
        (lambda: cnn(2, (8, -1)), "`channels` must be a positive whole number, but -1 came"),
        (lambda: cnn(2, dropout=float("nan")), "`dropout` must be a probability"),
    ],
    ids=["n_outputs", "width", "depth", "activation", "dropout", "channels", "channel", "nan"],
)
def test_argument_out_of_range(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("shape", [(3, 64), (3, 8, 3), (3, 3, 8, 1), (3, 2, 8, 8, 1)], ids=str)
def test_cnn_refuses_what_are_no_images(shape):
    model = cnn(2)
    with pytest.raises(
        ValueError, match=r"`x` must be images .* not flattened, of at least 4 x 4 pixels, but its shape"
    ):
        model.init(KEY, jnp.zeros(shape))
