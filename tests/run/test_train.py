"""Training against a hand-written loop, and what each member may do on its own: stop, diverge, drop out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genjax.models import from_functions, mlp
from genjax.random import seed_key
from genjax.run import (
    MemberStatus,
    Stopping,
    Train,
    TrainConfig,
    TrainResult,
    cross_entropy,
    make_train,
    squared_error,
    zero_one_error,
)
from genjax.tasks import make_task
from tests.run.small import MODEL, N_TRAIN, adam, apply, small_task, small_train

RATE = {"learning_rate": 0.05}
TASK = small_task()


def logistic(params, x, y):
    return jnp.mean(jnp.log1p(jnp.exp(-y[:, 0] * apply(params, x)[:, 0])))


def by_hand(params, batches, optimizer):
    """Plain loop over index arrays; the loss is written out again."""
    state = optimizer.init(params)
    trajectory = [params]
    for rows in batches:
        gradient = jax.grad(logistic)(params, TASK.x_train[rows], TASK.y_train[rows])
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory


def initial(train, key):
    return train.init(train.prepare(key, RATE)).params


# Sums over the same numbers in another order: rounding of float64, amplified by a dozen Adam steps.
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def test_full_batch_training_is_the_optimizers_own():
    train = small_train(batch_size=None, snapshots=(0, 5, 12))
    key = seed_key(3)
    result = jax.jit(train)(key, RATE)
    assert isinstance(train, Train)
    assert isinstance(result, TrainResult)
    path = by_hand(initial(train, key), [np.arange(N_TRAIN)] * 12, optax.adam(0.05))
    for name in ("w", "v"):
        np.testing.assert_allclose(result.params[name], path[-1][name], **CLOSE)
        np.testing.assert_allclose(result.snapshots[name], np.stack([path[t][name] for t in (0, 5, 12)]), **CLOSE)
    expected = [logistic(path[t], TASK.x_train, TASK.y_train) for t in (0, 3, 7, 12)]
    np.testing.assert_allclose(result.history["train_loss"], expected, **CLOSE)
    wrong = [np.mean(np.sign(apply(path[t], TASK.x_test)) != TASK.y_test) for t in (0, 3, 7, 12)]
    np.testing.assert_allclose(result.history["test_error"], wrong)
    assert result.status == MemberStatus.ALL_STEPS
    assert result.stop_step == -1


def recover_batches(train, key):
    """Which rows each step trained on, read off inputs that are their own row numbers."""
    rows = jnp.arange(N_TRAIN, dtype=float)[:, None]
    task = make_task(rows, jnp.zeros((N_TRAIN, 1)), rows[:2], jnp.zeros((2, 1)))
    seen = []
    context = train.prepare(key, RATE)._replace(task=task)
    order = train.init(context).order
    draw = jax.jit(lambda order, step, key: train._batch(context, order, step, key)[:2])
    for step in range(train.n_steps):
        order, x = draw(order, step, jax.random.fold_in(jax.random.fold_in(key, 1), step))
        seen.append(np.asarray(x[:, 0], int))
    return seen


@pytest.mark.parametrize("order", ["epochs", "independent"])
def test_mini_batches_follow_the_keys_order(order):
    train = small_train(order=order)
    key = seed_key(0)
    batches = recover_batches(train, key)
    path = by_hand(initial(train, key), batches, optax.adam(0.05))
    np.testing.assert_allclose(train(key, RATE).params["w"], path[-1]["w"], **CLOSE)
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:6])
    if order == "epochs":
        assert sorted(first) == sorted(second) == list(range(N_TRAIN))
        assert list(first) != list(second)
    else:
        assert len(set(first)) < N_TRAIN
    other = recover_batches(train, seed_key(1))
    assert not np.array_equal(np.stack(batches), np.stack(other))


def test_hyper_parameters_are_traced_to_the_last_bit():
    train = small_train()
    keys = jax.random.split(seed_key(0), 2)
    constant = small_train(optimizer=optax.adam(0.05))
    traced = jax.jit(train)(keys[0], RATE)
    np.testing.assert_array_equal(traced.params["w"], jax.jit(constant)(keys[0]).params["w"])
    several = jax.jit(jax.vmap(train, (None, 0)))(keys[0], {"learning_rate": jnp.array([0.05, 0.1])})
    np.testing.assert_allclose(several.params["w"][0], traced.params["w"], **CLOSE)
    assert not np.allclose(several.params["w"][1], traced.params["w"])


@pytest.mark.parametrize(
    ("stopping", "status", "metric"),
    [
        (Stopping(train_error=0.5), MemberStatus.FITTED, "train_error"),
        (Stopping(train_loss=0.68), MemberStatus.LOSS_REACHED, "train_loss"),
        (Stopping(patience=2, min_improvement=10.0), MemberStatus.NO_IMPROVEMENT, "test_loss"),
    ],
)
def test_a_member_stops_at_the_first_record_that_satisfies_its_rule(stopping, status, metric):
    config = {"steps": 40, "batch_size": None, "records": tuple(range(0, 41, 2)), "snapshots": ()}
    free = small_train(**config)(seed_key(1), RATE)
    result = small_train(**config, stopping=stopping)(seed_key(1), RATE)
    history = np.asarray(free.history[metric])
    if status == MemberStatus.NO_IMPROVEMENT:
        expected = 2  # the first record is always a minimum, and no later one undercuts it by 10
    else:
        threshold = stopping.train_error if status == MemberStatus.FITTED else stopping.train_loss
        expected = int(np.argmax(history <= threshold))
    assert 0 <= expected < 20
    assert result.status == status
    assert result.stop_step == 2 * expected
    assert result.stop_value == result.history[metric][expected]
    np.testing.assert_array_equal(result.history[metric][expected:], result.history[metric][expected])
    np.testing.assert_allclose(result.history[metric][: expected + 1], history[: expected + 1], **CLOSE)


def test_divergence_is_recorded_and_frozen_and_reaches_nobody_else():
    train = small_train(optimizer=lambda hp: optax.sgd(hp["learning_rate"]), loss="squared_error")
    rates = jnp.array([0.1, 1e300, 0.2, 0.1])
    key = seed_key(0)
    run = jax.jit(jax.vmap(train, (None, 0)))
    bad, good = run(key, {"learning_rate": rates}), run(key, {"learning_rate": rates.at[1].set(0.3)})
    assert bad.status.tolist() == [0, MemberStatus.DIVERGED, 0, 0]
    assert 0 < bad.stop_step[1] < 12
    assert not np.isfinite(bad.stop_value[1])
    assert np.all(np.isfinite(bad.params["w"]))
    assert np.isfinite(bad.history["test_loss"][1, 0])
    assert np.all(np.isnan(bad.history["test_loss"][1, 1:]))
    for kept in (0, 2, 3):
        for name in ("w", "v"):
            np.testing.assert_array_equal(bad.params[name][kept], good.params[name][kept])


def test_a_loss_above_the_limit_counts_as_divergence():
    train = small_train(stopping=Stopping(max_loss=0.0))
    result = train(seed_key(0), RATE)
    assert result.status == MemberStatus.DIVERGED
    assert result.stop_step == 0
    assert result.stop_value > 0
    assert np.isnan(result.history["train_loss"][1])


def test_evaluation_in_batches_gives_the_same_metrics():
    whole, parts = small_train()(seed_key(0), RATE), small_train(eval_batch_size=7)(seed_key(0), RATE)
    for name in whole.history:
        np.testing.assert_allclose(parts.history[name], whole.history[name], **CLOSE)


def test_dropout_and_batch_norm_train_and_evaluate_differently():
    task = small_task()
    model = mlp(1, width=6, depth=1, batch_norm=True, dropout=0.5)
    train = make_train(model, task, adam, TrainConfig(steps=6, batch_size=8, records=(6,)))
    run = jax.jit(train)
    result = run(seed_key(0), RATE)
    again, other = run(seed_key(0), RATE), run(seed_key(1), RATE)
    before = train.init(train.prepare(seed_key(0), RATE)).model_state
    statistics = jax.tree.leaves(result.model_state)
    assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(before), statistics, strict=True))
    np.testing.assert_array_equal(jax.tree.leaves(result.params)[0], jax.tree.leaves(again.params)[0])
    assert not np.array_equal(jax.tree.leaves(result.params)[0], jax.tree.leaves(other.params)[0])
    outputs = model.apply_fn(result.model_state)(result.params, task.x_test)
    np.testing.assert_allclose(result.history["test_loss"][0], jnp.mean(cross_entropy(outputs, task.y_test)), rtol=1e-6)


def test_each_member_may_have_data_of_its_own():
    def sample(key, hparams):
        x = jax.random.normal(key, (20, 2))
        y = hparams["slope"] * x[:, :1]
        return make_task(x[:12], y[:12], x[12:], y[12:])

    config = TrainConfig(steps=60, loss="squared_error", records=(0, 60))
    train = make_train(linear_model(), sample, optax.sgd(0.2), config)
    result = jax.vmap(train, (None, 0))(seed_key(0), {"slope": jnp.array([1.0, -2.0])})
    # Noiseless least squares by gradient descent ends at the truth.
    np.testing.assert_allclose(result.params["w"][:, :, 0], [[1.0, 0.0], [-2.0, 0.0]], atol=1e-3)
    assert set(result.history) == {"train_loss", "test_loss"}


def linear_model():
    return from_functions(lambda key: {"w": jnp.zeros((2, 1))}, lambda params, x: x @ params["w"])


def test_losses_in_closed_form():
    outputs, one_hot = jnp.array([[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]), jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = [np.log(np.exp(2) + np.exp(-1) + 1) - 2, np.log(3)]
    np.testing.assert_allclose(cross_entropy(outputs, one_hot), expected, rtol=1e-12)
    np.testing.assert_allclose(squared_error(outputs, one_hot), [2 / 3, 1 / 3])
    np.testing.assert_array_equal(zero_one_error(outputs, one_hot), [0, 1])
    signs = jnp.array([[1.0], [-1.0], [1.0]])
    scores = jnp.array([[0.5], [800.0], [0.0]])
    np.testing.assert_allclose(cross_entropy(scores, signs), [np.log1p(np.exp(-0.5)), 800.0, np.log(2)])
    np.testing.assert_array_equal(zero_one_error(scores, signs), [0, 1, 1])


@given(st.integers(1, 5000), st.integers(1, 80), st.sampled_from(["linear", "log"]))
def test_record_steps_increase_from_the_first_to_the_last(steps, records, spacing):
    found = TrainConfig(steps=steps, records=records, spacing=spacing).record_steps
    assert found[0] == 0
    assert found[-1] == steps
    assert list(found) == sorted(set(found))
    assert len(found) <= records + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be a positive whole number"),
        ({"steps": 10, "batch_size": -1}, "`batch_size` must be a positive whole number"),
        ({"steps": 10, "order": "sorted"}, "`order` must be one of"),
        ({"steps": 10, "loss": "hinge"}, "`loss` must be one of"),
        ({"steps": 10, "records": (0, 11)}, "`records` must be increasing whole numbers from 0 to 10"),
        ({"steps": 10, "snapshots": (5, 5)}, "`snapshots` must be increasing"),
        ({"steps": 10, "spacing": "cubic"}, "`spacing` must be one of"),
    ],
)
def test_bad_configurations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**arguments)


def test_bad_arguments_of_make_train_are_refused():
    config = TrainConfig(steps=1)
    with pytest.raises(TypeError, match=r"`model` must be a genjax\.models\.Model"):
        make_train(apply, TASK, adam, config)
    with pytest.raises(TypeError, match="`task` must be a Task or a function"):
        make_train(MODEL, 3, adam, config)
    with pytest.raises(TypeError, match="`optimizer` must be an optax transformation"):
        make_train(MODEL, TASK, 0.1, config)
    with pytest.raises(TypeError, match="`config` must be a TrainConfig"):
        make_train(MODEL, TASK, adam, {"steps": 1})
    with pytest.raises(ValueError, match="`batch_size` must be at most the 24 training examples"):
        make_train(MODEL, TASK, adam, TrainConfig(steps=1, batch_size=25))(seed_key(0), RATE)
    regression = make_task(TASK.x_train, TASK.y_train, TASK.x_test, TASK.y_test)
    with pytest.raises(ValueError, match="needs a classification task"):
        make_train(MODEL, regression, adam, TrainConfig(steps=1, stopping=Stopping(train_error=0.0)))(seed_key(0), RATE)
