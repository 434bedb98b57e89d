"""Outcomes of training: the empirical law against known ones, the fit that is checked, and what the tails promise."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax.errors import Status
from genjax.run import Execution, Interrupted, TrainConfig, make_train
from genjax.run.progress import Progress
from genjax.tasks import make_task
from genjax.volume.error_functions import error_function
from genjax.volume.pareto import fit_lower_tail, tail_bias
from genjax.volume.published import boopathy2024
from genjax.volume.spaces import trained_space
from genjax.volume.trained import Trained, trained
from tests.run.small import MODEL, adam, small_task

QUIET = Execution(progress=False)
SQUARED, ZERO_ONE = error_function("squared_error"), error_function("zero_one_error")
D = 6


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs are compiled for each device; one will do."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)


def run(space, task, target, config, *, fit_error=0.1, error=SQUARED, execution=QUIET, seed=0, **more):
    return trained(
        space,
        task,
        jnp.asarray(target),
        key=jax.random.key(seed),
        fit_error=fit_error,
        error=error,
        config=config,
        execution=execution,
        **more,
    )


def algorithm(key):
    """A test error of law chi-squared(D) / D; the training error is 0 three times in four, else 1; 1 in 20 fails."""
    a, b, c = jax.random.split(key, 3)
    broken = jnp.where(jax.random.uniform(c) < 0.05, jnp.nan, 0.0)
    return {"test": jax.random.normal(a, (D,)) + broken, "train": (jax.random.uniform(b) < 0.25).astype(float)}


def outputs(params, x):
    """Training inputs are 0, test inputs 1, 2, ...: which one is wanted."""
    test = params["test"][jnp.maximum(x[:, 0].astype(int) - 1, 0)]
    return jnp.where(x[:, 0] == 0, params["train"], test)[:, None]


SPACE = trained_space(algorithm, outputs, description="a made-up algorithm")
TASK = make_task(np.zeros(3), np.zeros(3), np.arange(D) + 1.0, np.zeros(D))


def exact(target):
    return -stats.chi2.logcdf(np.asarray(target) * D, D)


# From within the sample (2000 seeds, 1425 of which count) to far beyond.
TARGETS = stats.chi2.ppf(np.exp([-0.5, -2.0, -4.0, -6.5, -15.0]), D) / D
SEEDS = 2000


@pytest.fixture(scope="module")
def empirical():
    return run(SPACE, TASK, TARGETS, Trained(SEEDS))


def test_the_empirical_law_is_that_of_the_seeds_that_fit(empirical):
    # Of the seeds, 3/4 * 19/20 both fit and are numbers; the others that fit never generalize.
    counts = empirical.diagnostics
    np.testing.assert_allclose(empirical.log_fit.value, np.log(counts["n_fit"] / SEEDS))
    assert abs(counts["n_fit"] - 0.75 * SEEDS) < 4 * np.sqrt(SEEDS * 0.75 * 0.25)
    assert abs(counts["n_invalid"] - 0.05 * SEEDS) < 4 * np.sqrt(SEEDS * 0.05 * 0.95)
    assert counts["fits"].sum() == counts["n_fit"]
    assert counts["train_error"].shape == counts["test_error"].shape == (SEEDS,)
    np.testing.assert_array_equal(counts["fits"], counts["train_error"] <= 0.1)
    expected = [np.sum(counts["fits"] & (counts["test_error"] <= t)) for t in TARGETS]
    np.testing.assert_array_equal(counts["hits"], expected)
    low, high = empirical.bias.interval()
    truth = exact(TARGETS) - np.log(0.95)
    assert ((low <= truth) & (truth <= high)).all()
    assert empirical.bias.status.tolist() == [Status.OK] * 4 + [Status.BOUND]
    assert f"{counts['n_invalid']} of 2,000 hypotheses have a score that is NaN" in empirical.warnings[0]
    assert "a made-up algorithm with training error <= 0.1 on 3 points" in empirical.bias.given


def test_the_particles_are_the_seeds_that_fit(empirical):
    particles = empirical.particles
    found = jax.vmap(lambda p: SQUARED.error(outputs(p, TASK.x_test), TASK.y_test))(particles.params)
    np.testing.assert_allclose(found, particles.test_error)
    assert (particles.train_error == 0).all()
    usable = empirical.diagnostics["fits"] & np.isfinite(empirical.diagnostics["test_error"])
    assert len(particles.test_error) == usable.sum()


def test_without_a_training_stage_every_seed_counts():
    curve = run(SPACE, TASK, TARGETS, Trained(64, keep_params=False), fit_error=None)
    assert curve.particles.params is None
    assert curve.diagnostics["n_fit"] == 64
    assert curve.log_fit.value == 0
    assert curve.fit_error is None


def test_a_pareto_tail_extends_the_counts_and_says_so(empirical):
    curve = run(SPACE, TASK, TARGETS, Trained(SEEDS, tail="pareto"))
    counted = slice(0, 3)
    np.testing.assert_array_equal(curve.nats[counted], empirical.nats[counted])
    assert curve.bias.status.tolist() == [Status.OK] * 3 + [Status.DOUBTFUL, Status.BOUND]
    low, high = curve.bias.interval()
    truth = exact(TARGETS) - np.log(0.95)
    assert ((low <= truth) & (truth <= high)).all()
    # What the counts alone bound, the tail never bounds less.
    assert (low >= empirical.bias.interval()[0]).all()
    assert "fewer than 10 seeds reach are extrapolated by a generalized Pareto law" in curve.warnings[-1]
    n_fit = int(curve.diagnostics["n_fit"])
    assert f"fitted to the {n_fit // 10} smallest of {n_fit} errors" in curve.warnings[-1]


def test_the_published_tail_is_the_published_one(empirical):
    curve = run(SPACE, TASK, [0.0, *TARGETS], Trained(SEEDS, tail="published"))
    usable = empirical.diagnostics["fits"] & np.isfinite(empirical.diagnostics["test_error"])
    errors = empirical.diagnostics["test_error"][usable]
    np.testing.assert_allclose(curve.nats[1:], boopathy2024.inductive_bias(errors, TARGETS), rtol=1e-6)
    # Its law is the true one here, so it passes where it can be checked; beyond, it is not to be trusted.
    assert curve.bias.status.tolist() == [Status.BOUND] + [Status.OK] * 3 + [Status.DOUBTFUL] * 2
    assert "0 of the 3 values that can be checked lie outside" in curve.warnings[-1]
    np.testing.assert_allclose(curve.bias.interval()[1][1:4], empirical.bias.interval()[1][:3])


@pytest.mark.parametrize(
    ("config", "errors", "because"),
    [
        (Trained(30, tail="pareto"), lambda u: u, "errors are too few"),
        (Trained(80, tail="pareto"), lambda u: jnp.maximum(u, 0.5), "errors it would be fitted to are equal"),
        (Trained(80, tail="pareto"), lambda u: u - 0.5, "a law of positive errors, and some are not"),
        (Trained(80, tail="published"), lambda u: u - 0.5, "a law of positive errors, and some are not"),
    ],
)
def test_a_tail_that_cannot_be_fitted_leaves_the_counts(config, errors, because):
    space = trained_space(jax.random.uniform, lambda u, x: errors(u) * jnp.ones((len(x), 1)))
    error = error_function(lambda outputs, targets: outputs[0, 0])
    curve = run(space, TASK, [-1.0], config, fit_error=None, error=error)
    assert because in curve.warnings[-1]
    assert curve.bias.status.tolist() == [Status.BOUND]


SMALL = small_task()
TRAIN = make_train(MODEL, SMALL, adam, TrainConfig(steps=40, batch_size=8, records=(40,)))
TRAINED = trained_space(lambda key: TRAIN(key, {"learning_rate": 0.05}).params, MODEL.apply_fn())


def test_a_run_of_networks_is_resumed(tmp_path, monkeypatch):
    arguments = TRAINED, SMALL, [0.0, 0.25, 0.5], Trained(20)
    settings = {"fit_error": 0.38, "error": ZERO_ONE, "execution": Execution(chunk=4, progress=False)}
    expected = run(*arguments, **settings)
    assert 0 < expected.diagnostics["n_fit"] < 20
    advance, calls = Progress.advance, []

    def stopped(self, *values):
        calls.append(advance(self, *values))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", stopped)
        with pytest.raises(Interrupted, match="resume to go on"):
            run(*arguments, **settings, directory=tmp_path / "run")
        found = run(*arguments, **settings, directory=tmp_path / "run", resume=True)
    # 5 chunks of 4 seeds; the 2 that were finished are not trained again.
    assert len(calls) == 5
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`space` must be a TrainedSpace for method 'trained', but str came"):
        run("adam", TASK, [0.1], Trained(2))
    for settings, message in (
        ({"n_seeds": 0}, "`n_seeds` must be a positive whole number"),
        ({"min_hits": 0}, "`min_hits` must be a positive whole number"),
        ({"tail": "normal"}, "`tail` must be one of 'empirical', 'pareto', 'published'"),
        ({"tail_share": 0.6}, "`tail_share` must be above 0 and at most 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Trained(**settings)


def test_a_power_law_is_recovered():
    """P(E <= e) = ((e - 1) / 2)^4 on [1, 3]."""
    errors = 1 + 2 * np.random.default_rng(0).uniform(size=20_000) ** 0.25
    tail = fit_lower_tail(errors, 2000)
    # Hill's estimate has relative error 1 / sqrt(2000) with the endpoint known; unknown, it shares that with it.
    assert abs(tail.exponent[0] - 4) < 1
    assert abs(tail.endpoint[0] * tail.threshold - 1) < 0.3
    assert tail.exponent.min() < 4 < tail.exponent.max()
    value, low, high = tail_bias(tail, np.array([1.8]))
    truth = -4 * np.log(0.4)
    assert low[0] < truth < high[0]
    assert abs(value[0] - truth) < 0.2  # the data reach there: 512 of them


@pytest.mark.parametrize("law", ["chi2", "beta-binomial"])
def test_intervals_of_an_extrapolation_cover(law):
    """100 samples of 1000: binomial standard error 0.022, so 0.95 may show as 0.88."""
    rng, covered = np.random.default_rng(1), []
    if law == "chi2":
        targets = stats.chi2.ppf(np.exp([-8.0, -12.0]), 100)
        draw, truth = lambda: rng.chisquare(100, 1000), -stats.chi2.logcdf(targets, 100)
    else:
        targets, whole = np.array([3.0, 1.0]), stats.betabinom(100, 6, 14)
        draw, truth = lambda: whole.rvs(1000, random_state=rng), -whole.logcdf(targets)
    for _ in range(100):
        value, low, high = tail_bias(fit_lower_tail(draw(), 100, whole=law != "chi2"), targets)
        assert ((low <= value) & (value <= high)).all()
        covered.append((low <= truth) & (truth <= high))
    assert (np.mean(covered, axis=0) >= 0.88).all()
