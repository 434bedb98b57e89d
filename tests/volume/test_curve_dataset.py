"""Simulated curves as labelled datasets and figures, and Gaussian processes as hypothesis spaces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from genjax.errors import Status
from genjax.estimate import Estimate
from genjax.models import mlp
from genjax.ntk import linear, mlp_nngp, rbf
from genjax.plot import inductive_bias_curves
from genjax.run import Execution, load_results, open_run, save_results
from genjax.tasks import make_task
from genjax.volume import (
    BiasCurve,
    GuessAndCheck,
    Particles,
    bias_curve_dataset,
    fan_in_scale,
    gaussian_process_space,
    inductive_bias,
    weight_space,
)

pytestmark = pytest.mark.usefixtures("no_figure_left_open")
EPSILON = (0.3, 0.2, 0.1)


def curve(nats=(0.5, 2.0, 6.0), *, bound_last=False, **changes) -> BiasCurve:
    value = np.asarray(nats)
    status = np.array([0, 0, Status.BOUND if bound_last else Status.OK])
    high = np.where(status == Status.BOUND, np.inf, value + 1)
    stderr = np.where(status == Status.BOUND, np.inf, 0.5)
    low = np.where(status == Status.BOUND, value, value - 0.25)
    zero = jnp.zeros(3)
    given = "a hypothesis from a prior"
    bias = Estimate(jnp.asarray(value), jnp.asarray(stderr), zero, jnp.asarray(status), given, (low, high))
    fit = Estimate(jnp.asarray(-3.0), jnp.asarray(0.1), jnp.zeros(()), jnp.asarray(0), "a prior", (-3.5, -2.5))
    nothing = Particles(jnp.zeros((0, 2)), jnp.zeros(0), jnp.zeros(0), jnp.zeros(0))
    made = BiasCurve(
        target_error=jnp.asarray(EPSILON),
        bias=bias,
        log_fit=fit,
        particles=nothing,
        diagnostics={},
        warnings=(),
        fit_error=0.0,
        n_train=16,
        n_test=100,
        n_outputs=1,
        n_hypotheses=1000,
        method="splitting",
        error_scale="share of points misclassified (a tie counts as wrong)",
    )
    return dataclasses.replace(made, **changes)


def test_labels_hold_every_number_and_survive_the_file(tmp_path):
    curves = {"one": curve(), "two": curve((0.25, 3.0, 7.0), bound_last=True, fit_error=None, warnings=("beware",))}
    dataset = bias_curve_dataset(curves)
    assert dataset["nats"].dims == ("space", "target_error")
    for name, each in curves.items():
        row = dataset.sel(space=name)
        low, high = each.bias.interval()
        for label, expected in (("nats", each.nats), ("bits", each.bits), ("low", low), ("high", high)):
            np.testing.assert_array_equal(row[label], expected)
        np.testing.assert_array_equal(row["status"], each.bias.status)
    assert dataset["log_fit"].values.tolist() == [-3.0, -3.0]
    assert dataset["log_fit_low"].values.tolist() == [-3.5, -3.5]
    assert dataset["log_fit_high"].values.tolist() == [-2.5, -2.5]
    np.testing.assert_array_equal(dataset["fit_error"], [0.0, np.nan])
    numbers = {"n_train": 16, "n_test": 100, "n_outputs": 1, "n_hypotheses": 1000, "method": "splitting"}
    assert all(dataset[name].values.tolist() == [value] * 2 for name, value in numbers.items())
    assert dataset.attrs["warnings"] == {"two": ["beware"]}
    assert dataset["target_error"].attrs["long_name"].startswith("share of points misclassified")
    directory = open_run(tmp_path / "run", {})
    save_results(directory, dataset)
    stored = load_results(directory)
    for name in dataset.variables:
        np.testing.assert_array_equal(stored[name], dataset[name], err_msg=name)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "at least one curve"),
        ({"a": curve(), "b": curve(target_error=jnp.asarray([0.3, 0.2, 0.05]))}, "target errors"),
        ({"a": curve(), "b": curve(error_scale="another")}, "error function"),
    ],
    ids=["none", "other targets", "another error"],
)
def test_curves_that_cannot_be_compared_are_refused(results, message):
    with pytest.raises(ValueError, match=message):
        bias_curve_dataset(results)


def bars_of(ax):
    return [c for c in ax.containers if isinstance(c, ErrorbarContainer)]


def test_bars_are_the_intervals_and_a_bound_is_an_arrow():
    ax = inductive_bias_curves(bias_curve_dataset({"one": curve(bound_last=True)}))
    assert ax.get_xlabel() == "target error: share of points misclassified"
    line = next(line for line in ax.get_lines() if line.get_label() == "one")
    np.testing.assert_allclose(line.get_xdata(), EPSILON[:2])
    interval, bound = bars_of(ax)
    segments = interval.lines[2][0].get_segments()
    # float64 sums
    np.testing.assert_allclose(segments, [[[0.3, 0.25], [0.3, 1.5]], [[0.2, 1.75], [0.2, 3.0]]], rtol=1e-12)
    assert bound.get_label() == "one: at least"
    ((start, end),) = bound.lines[2][0].get_segments()
    np.testing.assert_allclose(start, [0.1, 6.0])
    assert end[1] > start[1]


def test_target_error_zero_has_a_place_on_the_axis():
    ax = inductive_bias_curves(bias_curve_dataset({"one": curve(target_error=jnp.asarray([0.2, 0.1, 0.0]))}))
    assert ax.get_xscale() == "linear"
    assert inductive_bias_curves(bias_curve_dataset({"one": curve()})).get_xscale() == "log"


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    y = np.where(x[:, 0] > 0, 1.0, -1.0)
    return make_task(x[:4], y[:4], x[4:], y[4:], kind="classification", encoding="plus_minus_one")


@pytest.mark.parametrize("kernel", [rbf(1.0), linear()], ids=["full rank", "rank 3 of 12"])
def test_gaussian_process_space_has_the_kernel_for_covariance(task, kernel):
    space, numbered = gaussian_process_space(kernel, task, description="a kernel")
    assert space.dimension == 12
    assert space.prior == "a Gaussian process with a kernel"
    # Columns of the transport are a root of the covariance.
    root = jax.vmap(space.transport)(jnp.eye(12))[..., 0].T
    x = jnp.concatenate([task.x_train, task.x_test])
    np.testing.assert_allclose(root @ root.T, kernel(x, x), atol=1e-12)
    values = space.transport(jnp.arange(12.0))
    np.testing.assert_array_equal(space.apply_fn(values, numbered.x_train), values[:4])
    np.testing.assert_array_equal(space.apply_fn(values, numbered.x_test), values[4:])
    np.testing.assert_array_equal(numbered.y_test, task.y_test)


def test_outputs_of_a_gaussian_process_are_independent(task):
    two = dataclasses.replace(task, y_train=jnp.ones((4, 2)), y_test=jnp.ones((8, 2)))
    space, _ = gaussian_process_space(rbf(1.0), two)
    assert space.dimension == 24
    z = jnp.zeros((12, 2)).at[:, 0].set(1.0).ravel()
    outputs = space.transport(z)
    assert float(jnp.abs(outputs[:, 1]).max()) == 0.0
    assert float(jnp.abs(outputs[:, 0]).max()) > 0.1


def test_kernel_that_is_not_finite_is_refused(task):
    with pytest.raises(ValueError, match="kernel"):
        gaussian_process_space(lambda x, y: jnp.full((len(x), len(y)), jnp.nan), task)


def test_wide_network_agrees_with_its_limit(task):
    """Counts of independent draws, so errors are binomial; width 64 is off its limit by about 1 / 64."""
    model = mlp(1, 64, 1)
    shapes, _ = jax.eval_shape(model.init, jax.random.key(0), task.x_train)
    network = weight_space(model.apply_fn(), shapes, scale=fan_in_scale(2**0.5, 0.5))
    limit, numbered = gaussian_process_space(mlp_nngp(1, 2.0, 0.25), task)
    settings = GuessAndCheck(n_hypotheses=2**13, batch=256, n_streams=1)
    found = [
        inductive_bias(
            *(space, own, [0.25, 0.125]),
            key=jax.random.key(i),
            error="zero_one_error",
            method=settings,
            execution=Execution(progress=False),
        )
        for i, (space, own) in enumerate([(network, task), (limit, numbered)])
    ]
    for one, two in ((f.log_fit for f in found), (f.bias for f in found)):
        assert np.all(np.isfinite(one.stderr))
        gap = np.abs(np.asarray(one.value - two.value))
        assert np.all(gap <= 4 * np.hypot(one.stderr, two.stderr) + 0.02)
