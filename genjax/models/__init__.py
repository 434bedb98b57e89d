"""Models to train: hand-written functions, modules of Flax, Equinox and Haiku, and built-in networks."""

from genjax.models.adapters import from_equinox, from_flax, from_functions, from_haiku, from_nnx
from genjax.models.model import Model
from genjax.models.networks import ACTIVATIONS, MODELS, cnn, linear, mlp

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "Model",
    "cnn",
    "from_equinox",
    "from_flax",
    "from_functions",
    "from_haiku",
    "from_nnx",
    "linear",
    "mlp",
]
