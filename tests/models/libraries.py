"""The same two models in every library, for the tests of the adapters; built when asked for.

Without an optional library, only its own cases are skipped.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from genjax.models import from_equinox, from_flax, from_functions, from_haiku, from_nnx

N_HIDDEN, N_OUTPUTS, RATE, MOMENTUM = 4, 2, 0.5, 0.9

# One network of each library: affine, batch normalization, dropout, affine.


class FlaxNetwork(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(nn.Dense(N_HIDDEN)(x))
        return nn.Dense(N_OUTPUTS)(nn.Dropout(RATE, deterministic=not train)(x))


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, N_HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(N_HIDDEN, momentum=MOMENTUM, rngs=rngs)
        self.dropout = nnx.Dropout(RATE, rngs=rngs)
        self.readout = nnx.Linear(N_HIDDEN, N_OUTPUTS, rngs=rngs)

    def __call__(self, x):
        return self.readout(self.dropout(self.norm(self.hidden(x))))


@functools.cache
def equinox_make():
    eqx = pytest.importorskip("equinox")

    class EquinoxNetwork(eqx.Module):
        hidden: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout
        readout: eqx.nn.Linear
        order: jax.Array  # integers drawn from the key: no parameter, but part of the model
        scale: object = eqx.field(static=True)  # a function made anew by every call

        def __init__(self, key):
            keys = jax.random.split(key, 3)
            self.hidden = eqx.nn.Linear(3, N_HIDDEN, key=keys[0])
            self.norm = eqx.nn.BatchNorm(N_HIDDEN, axis_name="batch", momentum=MOMENTUM, mode="ema")
            self.dropout = eqx.nn.Dropout(RATE)
            self.readout = eqx.nn.Linear(N_HIDDEN, N_OUTPUTS, key=keys[1])
            self.order = jax.random.permutation(keys[2], N_HIDDEN)
            self.scale = lambda x: 2 * x

        def __call__(self, x, state, *, key=None):
            x, state = self.norm(self.hidden(x), state)
            return self.readout(self.dropout(self.scale(x[self.order]), key=key)), state

    def make(key):
        return eqx.nn.make_with_state(EquinoxNetwork)(key)

    return make


@functools.cache
def haiku_transformed():
    hk = pytest.importorskip("haiku")

    def network(x, is_training):
        x = hk.BatchNorm(True, True, MOMENTUM)(hk.Linear(N_HIDDEN)(x), is_training)
        if is_training:
            x = hk.dropout(hk.next_rng_key(), RATE, x)
        return hk.Linear(N_OUTPUTS)(x)

    return hk.transform_with_state(network)


NETWORKS = {
    "flax": lambda: from_flax(FlaxNetwork()),
    "nnx": lambda: from_nnx(NnxNetwork),
    "equinox": lambda: from_equinox(equinox_make()),
    "haiku": lambda: from_haiku(haiku_transformed(), train_argument="is_training"),
}

# The affine map of each library.


def functions_affine():
    return from_functions(
        lambda key: {"w": jax.random.normal(key, (3, N_OUTPUTS)), "b": jnp.zeros(N_OUTPUTS)},
        lambda params, x: x @ params["w"] + params["b"],
    )


def equinox_affine():
    eqx = pytest.importorskip("equinox")
    return from_equinox(lambda key: eqx.nn.Linear(3, N_OUTPUTS, key=key))


def haiku_affine():
    hk = pytest.importorskip("haiku")
    return from_haiku(hk.transform(lambda x: hk.Linear(N_OUTPUTS)(x)))


AFFINE = {
    "functions": functions_affine,
    "flax": lambda: from_flax(nn.Dense(N_OUTPUTS)),
    "nnx": lambda: from_nnx(lambda rngs: nnx.Linear(3, N_OUTPUTS, rngs=rngs)),
    "equinox": equinox_affine,
    "haiku": haiku_affine,
}
