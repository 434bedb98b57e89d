"""Finite networks in the parametrization of the theory, trained by plain automatic differentiation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Ensemble(NamedTuple):
    """Over networks: outputs ``[s, t, n, c]``; at the end ``features[s, l, n, n]``, ``gradients[s, l, n, c, n, c]``."""

    f: jax.Array
    features: jax.Array
    gradients: jax.Array


@partial(jax.jit, static_argnames=("width",))
def train(problem, x, keys, *, width):
    """Train one network per key; outputs start at zero, by subtraction."""
    return jax.lax.map(partial(_train, problem, x, width=width), keys, batch_size=8)


def _apply(problem, params, x, kicks):
    width, hidden = params[-1].shape[1], []
    h = x @ params[0].T / jnp.sqrt(x.shape[1])
    for layer in range(problem.depth):
        hidden.append(problem.activation(h + kicks[layer]))
        if layer < problem.depth - 1:
            h = hidden[-1] @ params[layer + 1].T / jnp.sqrt(width)
    return hidden[-1] @ params[-1].T / (problem.gamma * width), jnp.stack(hidden)


def _train(problem, x, key, *, width):
    (n, d), c = x.shape, problem.y.shape[1]
    shapes = [(width, d), *[(width, width)] * (problem.depth - 1), (c, width)]
    params = [jax.random.normal(k, shape) for k, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)]
    rest = jnp.zeros((problem.depth, n, width))
    start, _ = _apply(problem, params, x, rest)

    def loss(params):
        f = _apply(problem, params, x, rest)[0] - start
        return problem.mask @ jnp.sum(problem.loss(f, problem.y), axis=1) / jnp.sum(problem.mask), f

    def step(state, _):
        params, velocity = state
        gradient, f = jax.grad(loss, has_aux=True)(params)
        rate = problem.learning_rate
        velocity = [
            problem.momentum * v - rate * problem.gamma**2 * width * g - rate * problem.weight_decay * w
            for v, g, w in zip(velocity, gradient, params, strict=True)
        ]
        return ([w + v for w, v in zip(params, velocity, strict=True)], velocity), (f, params)

    _, (f, path) = jax.lax.scan(step, (params, [jnp.zeros_like(w) for w in params]), length=problem.steps + 1)
    params = [w[-1] for w in path]
    _, hidden = _apply(problem, params, x, rest)
    # Examples do not interact, so the sum over them has the gradients of all.
    g = jax.jacrev(lambda kicks: jnp.sum(_apply(problem, params, x, kicks)[0], axis=0))(rest) * problem.gamma * width
    features = jnp.einsum("lai,lbi->lab", hidden, hidden) / width
    return Ensemble(f, features, jnp.einsum("claj,dlbj->lacbd", g, g) / width)
