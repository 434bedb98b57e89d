"""A tiny training problem whose programs compile in about a second, shared by the tests of the engine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax.models import from_functions
from genjax.run import TrainConfig, make_train
from genjax.tasks import Task, make_task

N_TRAIN, N_TEST, N_FEATURES, N_HIDDEN = 24, 16, 3, 4


def small_task(seed: int = 0) -> Task:
    """The sign of a product of two Gaussian coordinates."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N_TRAIN + N_TEST, N_FEATURES))
    y = np.sign(x[:, :1] * x[:, 1:2])
    parts = x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:]
    return make_task(*parts, kind="classification", encoding="plus_minus_one")


def init(key):
    first, second = jax.random.split(key)
    return {
        "w": jax.random.normal(first, (N_FEATURES, N_HIDDEN)),
        "v": jax.random.normal(second, (N_HIDDEN, 1)) / 2,
    }


def apply(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


MODEL = from_functions(init, apply)


def adam(hparams):
    return optax.adam(hparams["learning_rate"])


def small_train(task=None, optimizer=adam, model=MODEL, **config):
    """A program of 12 steps unless told otherwise."""
    settings = {"steps": 12, "batch_size": 8, "records": (0, 3, 7, 12), "snapshots": (12,), **config}
    return make_train(model, small_task() if task is None else task, optimizer, TrainConfig(**settings))
