"""A network space on digits and its volumes, (value, stderr), of 2.45 million independent draws made once."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from sklearn.datasets import load_digits

from genjax.tasks import Task, make_task
from genjax.volume import HypothesisSpace, fan_in_scale, weight_space

LOG_FIT = (-5.804, 0.012)
BIAS = {0.3: (0.184, 0.013), 0.2: (0.955, 0.019), 0.15: (1.934, 0.031), 0.1: (3.967, 0.085)}
"""Nats: log P(all 16 training points right), and I by share of test errors; errors are ``"zero_one_error"``."""


def relu_network(params: Any, x: Array) -> Array:
    """One hidden layer, no biases."""
    return jnp.maximum(x @ params["hidden"], 0) @ params["output"]


def digits_3_vs_8() -> tuple[HypothesisSpace, Task]:
    """Space (64-32-1 ReLU, N(0, 1 / fan-in)) and task (3 is -1, 8 is +1): 16 training and 341 test images.

    Pixels / 16, centered over all 357 images, in the order of ``numpy.random.default_rng(0).permutation(357)``.
    """
    data = load_digits()
    chosen = np.isin(data.target, (3, 8))
    order = np.random.default_rng(0).permutation(chosen.sum())
    x, y = data.data[chosen][order] / 16, np.where(data.target[chosen][order] == 8, 1.0, -1.0)
    x = x - x.mean(axis=0)
    task = make_task(x[:16], y[:16], x[16:], y[16:], kind="classification", encoding="plus_minus_one")
    shapes = {"hidden": jnp.zeros((64, 32)), "output": jnp.zeros((32, 1))}
    return weight_space(relu_network, shapes, scale=fan_in_scale()), task
