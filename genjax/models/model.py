"""The protocol of a trainable model: two pure functions, and nothing of the library they came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.tree_util import Partial

from genjax.typing import ApplyFn, Params

ModelState = Any


@dataclasses.dataclass(frozen=True)
class Bound:
    """A function with its leading arguments fixed, equal to another when function and arguments are.

    ``functools.partial`` and bound methods compare by identity, so equal models would each compile anew.

    Attributes:
      function: what is called.
      arguments: its leading arguments.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result with the leading arguments put in front."""
        return self.function(*self.arguments, *args, **kwargs)

    def __hash__(self) -> int:
        # Arguments need not be hashable (a module may hold a list); equality tells those apart.
        return hash(self.function)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as two pure functions, whichever library it was written in.

    Build one with :func:`from_functions`, :func:`from_flax`, :func:`from_nnx`, :func:`from_equinox` or
    :func:`from_haiku`, or take one of :data:`MODELS`. Both functions pass through ``jit``, ``grad`` and ``vmap``;
    models built twice from equal descriptions are equal, so a model can be a static argument of ``jit``.

    Attributes:
      init: ``init(key, x[n, ...]) -> (params, model_state)``. Of the inputs only shape and dtype matter, unless the
        model itself initializes from data; a ``jax.ShapeDtypeStruct`` stands for zeros. ``params`` is a pytree of
        floating arrays, to be trained. ``model_state`` is a pytree of arrays that training updates otherwise, such as
        batch-norm statistics; ``()`` where there are none.
      apply: ``apply(params, model_state, x[n, ...], *, key=None, train=False) -> (float[n, c], model_state)``. In
        training mode ``key`` is a typed key, for dropout, and the new state keeps structure, shapes and dtypes, so it
        can be carried through ``scan``. In evaluation mode nothing is random and the state comes back as it was.
    """

    init: Callable[[Array, Array], tuple[Params, ModelState]]
    apply: Callable[..., tuple[Array, ModelState]]

    def apply_fn(self, model_state: ModelState = ()) -> ApplyFn:
        """The hypothesis ``apply_fn(params, x[n, ...]) -> float[n, c]`` in evaluation mode, for measures and kernels.

        Args:
          model_state: the state to evaluate with, for example the trained batch-norm statistics.

        Returns:
          A pure function. Without state, equal models give equal functions; with state it is a pytree whose leaves
          are those of the state, so it passes through ``jit`` and ``vmap`` as an argument.
        """
        evaluate = Bound(_evaluate, (self.apply,))
        return Partial(evaluate, model_state) if jax.tree.leaves(model_state) else Bound(evaluate, (model_state,))


def _evaluate(
    apply: Callable[..., tuple[Array, ModelState]], model_state: ModelState, params: Params, x: Array
) -> Array:
    return apply(params, model_state, x)[0]
