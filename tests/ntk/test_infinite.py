"""Kernels of infinitely wide networks: reference numbers, precision, symmetry, tiles, arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.ntk import infinite as nn
from genjax.ntk.infinite import collapse
from genjax.ntk.kernels import mlp_nngp, mlp_ntk

RNG = np.random.default_rng(0)
X1, X2 = RNG.standard_normal((7, 5)), RNG.standard_normal((4, 5))
IMAGES = RNG.standard_normal((5, 6, 6, 2))


def fc(depth, weight_variance=2.0, bias_variance=0.0, activation=None):
    hidden = [nn.dense(weight_variance, bias_variance), activation or nn.relu()]
    return nn.serial(*(depth * hidden), nn.dense(weight_variance, bias_variance))


def cnn(depth=2, pool=True, bias_variance=0.1):
    hidden = [nn.conv((3, 3), 2.0, bias_variance), nn.relu()]
    return nn.serial(*(depth * hidden), nn.global_avg_pool() if pool else nn.flatten(), nn.dense(2.0, bias_variance))


def relative_error(found, exact):
    """Against the geometric mean of the diagonal, since a tangent kernel may pass through 0."""
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    return np.max(np.abs(np.asarray(found, np.float64) - exact) / scale)


ANGLES = np.pi * np.arange(5) / 4
REFERENCE = {
    1: [
        (1, 2),
        (0.7554091649, 1.2857392508),
        (0.3183098862, 0.3183098862),
        (0.0483023837, -0.1284743116),
        (0, 0),
    ],
    2: [
        (1, 3),
        (0.7921739377, 1.7854870430),
        (0.4937310902, 0.6857086363),
        (0.3428324779, 0.2766192445),
        (0.3183098862, 0.3183098862),
    ],
    3: [
        (1, 4),
        (0.8209128452, 2.2333237193),
        (0.6048257201, 1.0603881068),
        (0.5086222995, 0.6777435223),
        (0.4937310902, 0.6857086363),
    ],
    10: [
        (1, 11),
        (0.9190001487, 4.7376479208),
        (0.8715355160, 3.4793767120),
        (0.8568483111, 3.1855629888),
        (0.8548092375, 3.1559474489),
    ],
}


@pytest.mark.parametrize(("depth", "collapsing"), [(1, False), (3, False), *((depth, True) for depth in REFERENCE)])
def test_reference_numbers_of_relu_networks(depth, collapsing):
    x = np.sqrt(2) * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    # Normalizing a layer of unit variance leaves the kernel alone and keeps the recursion from collapsing.
    first = nn.dense(1.0) if collapsing else nn.serial(nn.dense(1.0), nn.layer_norm())
    net = nn.serial(first, *(depth * [nn.relu(), nn.dense(2.0)]))
    found = nn.kernels(net, x[:1], x)
    # Ten digits are given; a cosine taken as a product of rounded vectors shifts the angle pi by 1e-8.
    np.testing.assert_allclose(np.stack([found.nngp[0], found.ntk[0]], axis=1), REFERENCE[depth], atol=1e-9)


def test_reference_numbers_of_error_function_networks():
    x = np.array([[1.0, 0.0], [0.5, 0.75**0.5]]) * np.sqrt(2)
    found = nn.nngp(nn.serial(nn.dense(1.0), nn.erf(), nn.dense(1.0)))(x, x)
    np.testing.assert_allclose(found[0, 1], 0.2163468960, atol=1e-10)


def test_eigenvalues_on_the_circle():
    n = 4096
    angles = 2 * np.pi * np.arange(n) / n
    circle = np.sqrt(2) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    row = nn.ntk(nn.serial(nn.dense(1.0), nn.relu(), nn.dense(2.0)))(circle[:1], circle)[0]
    found = np.fft.rfft(row).real[:8] / n
    k = np.arange(0, 8, 2)
    np.testing.assert_allclose(found[::2], 2 * (k**2 + 3) / (np.pi**2 * (k**2 - 1) ** 2), atol=1e-6)
    np.testing.assert_allclose(found[1::2], [0.5, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("bias_variance", [0.0, 0.1])
@pytest.mark.parametrize("depth", [1, 3, 10])
def test_single_precision_of_fully_connected_networks(depth, bias_variance):
    x = X1.astype(np.float32)
    found = nn.kernels(fc(depth, 1.5, bias_variance), x)
    for kernel, peer in zip(found, (mlp_nngp, mlp_ntk), strict=True):
        exact = np.asarray(peer(depth, 1.5, bias_variance)(x.astype(np.float64), x.astype(np.float64)))
        assert kernel.dtype == jnp.float32
        assert relative_error(kernel, exact) < 2e-6


@pytest.mark.parametrize("bias_variance", [0.0, 0.1])
def test_nearly_parallel_and_opposite_inputs(bias_variance):
    x = np.concatenate([X1, X1[:2] * 1.0001, X1[:2] + 1e-6, -X1[:1]])
    found = nn.kernels(fc(3, 1.5, bias_variance), x)
    for kernel, peer in zip(found, (mlp_nngp, mlp_ntk), strict=True):
        exact = np.asarray(peer(3, 1.5, bias_variance)(x, x))
        # Cosines of inputs are rounded at 1e-16, so angles between parallel ones at 1e-8; not so between the others.
        assert relative_error(kernel, exact) < 1e-7
        assert relative_error(kernel[:7, :7], exact[:7, :7]) < 1e-11


@pytest.mark.parametrize(
    "net",
    [cnn(2), cnn(2, pool=False), fc(3, 1.5, 0.1, nn.erf()), fc(2, 1.5, 0.1, nn.gelu()), fc(2, 1.5, 0.1, nn.abs())],
    ids=["pool", "flatten", "erf", "gelu", "abs"],
)
def test_single_precision_symmetry_and_positivity(net):
    x = (IMAGES if "Conv" in str(net) else X1).astype(np.float32)
    found = nn.kernels(net, x)
    exact = nn.kernels(net, x.astype(np.float64))
    for single, double in zip(found, exact, strict=True):
        assert relative_error(single, np.asarray(double)) < 2e-6
        assert np.array_equal(single, single.T)
        eigenvalues = np.linalg.eigvalsh(np.asarray(single, np.float64))
        assert eigenvalues[0] > -1e-5 * eigenvalues[-1]
    # The cross kernel on copies, where nothing is set exactly, agrees.
    np.testing.assert_allclose(
        nn.kernels(net, x.astype(np.float64), x.astype(np.float64).copy()).ntk, exact.ntk, rtol=1e-6
    )


def test_half_precision_inputs_are_accumulated_in_single():
    x = jnp.asarray(X1, jnp.bfloat16)
    found = nn.ntk(fc(2))(x, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, nn.ntk(fc(2))(x.astype(jnp.float32), x.astype(jnp.float32)), rtol=1e-6)


def test_collapsed_depth_agrees_with_the_recursion():
    x = RNG.standard_normal((40, 3))
    for depth in (2, 10):
        found = nn.kernels(fc(depth, 1.7), x)
        for kernel, peer in zip(found, (mlp_nngp, mlp_ntk), strict=True):
            assert relative_error(kernel, np.asarray(peer(depth, 1.7)(x, x))) < 1e-11
    leaky = fc(2, 1.7, 0.0, nn.leaky_relu(0.3))
    plain = nn.serial(*leaky.layers[:-1], nn.dropout(0.0), leaky.layers[-1])
    assert collapse.of_network(plain, jnp.float64) is None
    for kernel, exact in zip(nn.kernels(leaky, x), nn.kernels(plain, x), strict=True):
        assert relative_error(kernel, np.asarray(exact)) < 1e-11


@pytest.mark.parametrize(("depth", "degree"), [(3, 16), (10, 24), (30, 48)])
def test_a_few_terms_suffice_in_single_precision(depth, degree):
    coefficients, scale = collapse.of_network(fc(depth, 1.5), jnp.float32)
    assert coefficients.shape[1] - 1 <= degree
    np.testing.assert_allclose(scale, 1.5 ** (depth + 1), rtol=1e-6)


def test_what_does_not_collapse():
    assert collapse.of_network(fc(3, bias_variance=0.1), jnp.float32) is None
    assert collapse.of_network(fc(3, activation=nn.erf()), jnp.float32) is None
    assert collapse.of_network(nn.serial(nn.relu(), nn.dense(), nn.relu()), jnp.float32) is None


@pytest.mark.parametrize("max_bytes", [2**28, 8 * 8 * 9])
def test_tiles_change_nothing(max_bytes):
    net = fc(2, 1.5, 0.1)
    np.testing.assert_allclose(nn.kernels(net, X1, max_bytes=max_bytes).ntk, mlp_ntk(2, 1.5, 0.1)(X1, X1), rtol=1e-12)
    cross = nn.kernels(net, X1, X2, max_bytes=max_bytes).ntk
    np.testing.assert_allclose(cross, mlp_ntk(2, 1.5, 0.1)(X1, X2), rtol=1e-12, atol=1e-14)
    gram = nn.kernels(net, X1, max_bytes=max_bytes).nngp
    assert np.array_equal(gram, gram.T)


def test_temporaries_of_convolutions_do_not_grow_with_the_number_of_images():
    kernel = nn.ntk(cnn(3))
    sizes = [
        jax.jit(lambda x: kernel(x, x))
        .lower(jax.ShapeDtypeStruct((n, 16, 16, 3), jnp.float32))
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for n in (16, 64)
    ]
    assert sizes[0] == sizes[1] <= 64e6


def test_hyper_parameters_are_leaves():
    traces = []

    @jax.jit
    def total(kernel):
        traces.append(1)
        return kernel(jnp.asarray(X1), jnp.asarray(X2)).sum()

    values = {float(total(nn.ntk(fc(3, variance, 0.1)))) for variance in (1.0, 1.5, 2.0)}
    assert len(traces) == 1
    assert len(values) == 3
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nn.nngp(fc(3, v, 0.1)) for v in (1.0, 2.0)))
    batched = jax.vmap(lambda kernel: kernel(jnp.asarray(X1), jnp.asarray(X2)))(stacked)
    np.testing.assert_allclose(batched[1], nn.nngp(fc(3, 2.0, 0.1))(X1, X2), rtol=1e-12)


@pytest.mark.parametrize("make", [lambda v: fc(2, v), lambda v: fc(1, v, 0.2, nn.erf()), lambda v: fc(1, v, 0.2)])
def test_gradients_against_finite_differences(make):
    def total(v):
        return nn.ntk(make(v))(X1, X1).sum()

    step = 1e-5
    difference = (total(1.3 + step) - total(1.3 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(total)(1.3), difference, rtol=1e-8)


def test_gradients_of_convolutions_and_inputs_are_finite_and_right():
    def total(x):
        return nn.ntk(cnn(1))(x, x)[0].sum()

    x, direction = jnp.asarray(IMAGES[:2]), RNG.standard_normal(IMAGES[:2].shape)
    gradient = jax.grad(total)(x)
    step = 1e-5
    difference = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), difference, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.dense(0.0), ValueError, "`weight_variance` must be a positive number"),
        (lambda: nn.dense(1.0, -0.1), ValueError, "`bias_variance` must be at least 0"),
        (lambda: nn.dense(parameterization="mup"), ValueError, "`parameterization` must be one of 'ntk', 'standard'"),
        (lambda: nn.conv((3, 3, 3)), ValueError, "`window` and `strides` must have 1 or 2 sizes"),
        (lambda: nn.conv(0), ValueError, "`window` must be a positive whole number"),
        (lambda: nn.conv(3, padding="FULL"), ValueError, "`padding` must be one of"),
        (lambda: nn.dropout(1.0), ValueError, r"`rate` must be in \[0, 1\)"),
        (lambda: nn.rectified_monomial(5), ValueError, "`degree` must be one of 0, 1, 2"),
        (lambda: nn.serial(nn.dense(), jnp.tanh), TypeError, "`layers` of `serial`"),
        (lambda: nn.add(nn.dense()), TypeError, "2 or more layers"),
        (lambda: nn.ntk(jnp.tanh), TypeError, "`net` must be a network"),
        (lambda: nn.kernels(nn.serial(nn.relu(), nn.dense()), X1), ValueError, "`relu` needs Gaussian inputs"),
        (lambda: nn.kernels(nn.serial(nn.layer_norm(), nn.dense()), X1), ValueError, "`layer_norm` needs inputs of"),
        (lambda: nn.kernels(nn.serial(nn.conv((3, 3))), IMAGES), ValueError, r"add flatten\(\) or global_avg_pool"),
        (lambda: nn.kernels(nn.serial(nn.conv(3)), IMAGES), ValueError, "one size per axis of positions"),
        (lambda: nn.kernels(cnn(), IMAGES, max_bytes=100), ValueError, "`max_bytes` must be at least 82944"),
        (lambda: nn.kernels(fc(1), X1, X2[:, :3]), ValueError, "`x1` and `x2` must have the same channels"),
        (lambda: nn.kernels(cnn(), IMAGES, IMAGES[:, :4]), ValueError, "padded to the same positions"),
        (lambda: nn.kernels(fc(1), X1[0]), ValueError, "`x1` must be a batch"),
        (lambda: nn.kernels(fc(1), X1, X2[:0]), ValueError, "`x2` must be a batch"),
        (lambda: nn.kernels(fc(1), X1 * np.nan), ValueError, "`x1` must be finite"),
        (lambda: nn.kernels(cnn(), IMAGES, mask1=np.ones(5, bool)), ValueError, "`mask1` must be boolean of shape"),
        (
            lambda: nn.kernels(cnn(), IMAGES, IMAGES[:2], mask1=np.ones((5, 6, 6), bool)),
            ValueError,
            "`mask1` and `mask2` must both be given",
        ),
        (
            lambda: nn.kernels(nn.serial(nn.aggregate(), nn.global_sum_pool()), IMAGES[:, 0]),
            ValueError,
            "`pattern` must be given for `aggregate`",
        ),
        (
            lambda: nn.kernels(nn.serial(nn.conv((3, 3)), nn.max_pool((2, 2)), nn.flatten()), IMAGES),
            ValueError,
            "`max_pool` has no closed form.*genjax.ntk.monte_carlo_kernel",
        ),
        (
            lambda: nn.kernels(nn.serial(nn.dense(), nn.batch_norm(), nn.relu()), X1),
            ValueError,
            "`batch_norm` has no closed form",
        ),
        (
            lambda: nn.kernels(nn.serial(nn.attention(scaling="sqrt"), nn.global_avg_pool()), IMAGES[:, 0]),
            ValueError,
            "`attention.*` has no closed form",
        ),
        (
            lambda: nn.kernels(nn.serial(nn.dense(), nn.relu(), nn.residual(nn.relu()), nn.dense()), X1),
            ValueError,
            "`relu` needs Gaussian",
        ),
        (
            lambda: nn.kernels(nn.serial(nn.dense(), nn.residual(nn.relu()), nn.dense()), X1),
            ValueError,
            "at most one branch of `add`",
        ),
        (
            lambda: nn.ntk(nn.serial(nn.dense(), nn.relu(), nn.dense(parameterization="standard")))(X1, X1),
            ValueError,
            "`width` must be given",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
