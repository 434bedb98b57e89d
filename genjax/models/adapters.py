"""Models of every library as one protocol: hand-written functions, Flax Linen, Flax NNX, Equinox and Haiku.

Each adapter returns a :class:`~genjax.models.Model`. A library is imported when its adapter is called, so none has to
be installed for the others to work.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from genjax.models.model import Bound, Model, ModelState
from genjax.random import is_typed_key
from genjax.typing import ApplyFn, Params

if TYPE_CHECKING:
    import equinox
    import flax.linen as nn
    import haiku
    from flax import nnx

# What modules call the argument that says whether they train, and the arguments that say the opposite.
_TRAIN_ARGUMENTS = ("train", "training", "is_training")
_EVALUATE_ARGUMENTS = ("deterministic", "use_running_average")


def from_functions(init: Callable[[Array], Params], apply: ApplyFn) -> Model:
    """Model without state or dropout from two hand-written functions.

    Args:
      init: ``init(key) -> params``, pure; a pytree of floating arrays.
      apply: ``apply(params, x[n, ...]) -> float[n, c]``, pure.

    Returns:
      The model.

    Raises:
      TypeError: an argument cannot be called.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from genjax.models import from_functions
      >>> model = from_functions(
      ...     lambda key: {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)},
      ...     lambda params, x: x @ params["w"] + params["b"],
      ... )
      >>> x = jnp.ones((5, 3))
      >>> params, model_state = model.init(jax.random.key(0), x)
      >>> outputs, model_state = model.apply(params, model_state, x)
      >>> outputs.shape, model_state
      ((5, 2), ())
    """
    _check_callable("init", init)
    _check_callable("apply", apply)
    return _adapt(_functions_init, _functions_apply, init, apply)


def from_flax(module: nn.Module, *, train_argument: str | None = None) -> Model:
    """Model from a Flax Linen module, called on a batch.

    ``params`` is the collection of that name; every other collection (``batch_stats``) is model state, which training
    may change. Dropout draws from the ``"dropout"`` stream. Modules learn of the mode through an argument of
    ``__call__``: ``train``, ``training`` or ``is_training``, or the opposite, ``deterministic`` or
    ``use_running_average``. A module with none of them computes the same in both modes.

    Args:
      module: an instance of ``flax.linen.Module``; ``module(x[n, ...]) -> float[n, c]``.
      train_argument: name of the boolean argument that says whether the module trains, where it is called otherwise.

    Returns:
      The model; equal modules give equal models.

    Raises:
      TypeError: ``module`` is not an instance of ``flax.linen.Module``.
      ValueError: the module does not take ``train_argument``.
    """
    import flax.linen as nn

    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be an instance of flax.linen.Module, but {_name(module)} came")
    return _adapt(_flax_init, _flax_apply, module, _mode_arguments(module.__call__, train_argument))


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """Model from a function that builds a Flax NNX module, called on a batch.

    ``params`` holds the values of the module's ``nnx.Param`` variables as a nested dictionary, which
    ``nnx.update(module, params)`` accepts; other variables (``nnx.BatchStat``) are model state. The mode is set by
    ``module.train()`` and ``module.eval()``. Random streams are no part of the state: they restart from ``key`` at
    every call. Sown intermediates are dropped.

    Args:
      make: ``make(nnx.Rngs) -> nnx.Module``, pure, with ``module(x[n, ...]) -> float[n, c]``; for example the class.

    Returns:
      The model; equal to another from the same function.

    Raises:
      TypeError: ``make`` is not a function but, for example, a module already built.
    """
    from flax import nnx

    _check_make(make, nnx.Module)
    return _adapt(_nnx_init, _nnx_apply, make)


def from_equinox(make: Callable[[Array], equinox.Module | tuple[equinox.Module, equinox.nn.State]]) -> Model:
    """Model from a function that builds an Equinox module, called on one example and mapped over the batch.

    ``params`` is the module with everything but its floating arrays replaced by None; its other arrays and its
    ``equinox.nn.State`` are model state. The mode is set by ``equinox.nn.inference_mode``; the batch is a ``vmap`` with
    ``axis_name="batch"``, the name ``equinox.nn.BatchNorm`` asks for. A module that takes ``key`` gets one per example,
    split from the batch's, in training mode only.

    Args:
      make: ``make(key) -> module`` with ``module(x[...]) -> float[c]``, or ``make(key) -> (module, state)``, as
        ``equinox.nn.make_with_state`` gives, with ``module(x[...], state) -> (float[c], state)``; pure.

    Returns:
      The model; equal to another from the same function.

    Raises:
      TypeError: ``make`` is not a function but, for example, a module already built.
    """
    import equinox as eqx

    _check_make(make, eqx.Module)
    return _adapt(_equinox_init, _equinox_apply, make)


def from_haiku(
    transformed: haiku.Transformed | haiku.TransformedWithState, *, train_argument: str | None = None
) -> Model:
    """Model from a transformed Haiku function of a batch.

    Haiku's batch normalization starts from the statistics of the inputs that ``init`` gets.

    Args:
      transformed: what ``hk.transform`` or ``hk.transform_with_state`` returned for ``f(x[n, ...]) -> float[n, c]``.
      train_argument: name of the function's boolean argument that says whether it trains, often ``is_training``;
        ``deterministic`` and ``use_running_average`` say the opposite. Transformed functions hide their signature, so
        it is not detected: None calls the function with ``x`` alone.

    Returns:
      The model; equal to another from the same transformed function.

    Raises:
      TypeError: ``transformed`` is not a transformed function.
    """
    import haiku as hk

    if not isinstance(transformed, hk.Transformed | hk.TransformedWithState):
        raise TypeError(
            f"`transformed` must come from hk.transform or hk.transform_with_state, but {_name(transformed)} came"
        )
    return _adapt(_haiku_init, _haiku_apply, transformed, () if train_argument is None else (train_argument,))


def _adapt(init: Callable[..., tuple[Params, ModelState]], apply: Callable[..., Any], *source: Any) -> Model:
    """The model of ``init(*source, key, x)`` and ``apply(*source, params, model_state, x, key, train)``."""
    return Model(Bound(_init, (init, source)), Bound(_apply, (apply, source)))


def _init(
    init: Callable[..., tuple[Params, ModelState]], source: tuple[Any, ...], key: Array, x: Array
) -> tuple[Params, ModelState]:
    _check_key(key)
    x = jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)
    params, model_state = init(*source, key, x)
    return params, model_state if jax.tree.leaves(model_state) else ()


def _apply(
    apply: Callable[..., tuple[Array, ModelState]],
    source: tuple[Any, ...],
    params: Params,
    model_state: ModelState,
    x: Array,
    *,
    key: Array | None = None,
    train: bool = False,
) -> tuple[Array, ModelState]:
    if train:
        _check_key(key)
    x = jnp.asarray(x)
    outputs, new_state = apply(*source, params, model_state, x, key if train else None, train)
    if not isinstance(outputs, Array):
        raise TypeError(f"the model must return one array of outputs, but {_name(outputs)} came")
    if outputs.ndim != 2 or len(outputs) != len(x):
        raise ValueError(
            f"the model must return outputs of shape [{len(x)}, c] for {len(x)} inputs, but theirs is {outputs.shape}"
        )
    return outputs, (_in_types_of(model_state, new_state) if train else model_state)


def _in_types_of(old: ModelState, new: ModelState) -> ModelState:
    """New values in the old structure and dtypes: some libraries' float32 statistics turn float64 with the inputs."""
    leaves = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    return jax.tree.unflatten(jax.tree.structure(old), [after.astype(before.dtype) for before, after in leaves])


def _functions_init(init: Callable[[Array], Params], _: ApplyFn, key: Array, _x: Array) -> tuple[Params, ModelState]:
    return init(key), ()


def _functions_apply(
    _: Callable[[Array], Params], apply: ApplyFn, params: Params, model_state: ModelState, x: Array, *_mode: Any
) -> tuple[Array, ModelState]:
    return apply(params, x), model_state


def _flax_init(module: nn.Module, mode: tuple[str, ...], key: Array, x: Array) -> tuple[Params, ModelState]:
    state = dict(module.init(key, x, **_mode_values(mode, False)))
    return state.pop("params", {}), state


def _flax_apply(
    module: nn.Module,
    mode: tuple[str, ...],
    params: Params,
    model_state: ModelState,
    x: Array,
    key: Array | None,
    train: bool,
) -> tuple[Array, ModelState]:
    state = dict(model_state)
    outputs, updated = module.apply(
        {"params": params, **state},
        x,
        rngs={} if key is None else {"dropout": key},
        mutable=list(state) if train else [],
        **_mode_values(mode, train),
    )
    return outputs, {**state, **updated}


def _nnx_init(make: Callable[[nnx.Rngs], nnx.Module], key: Array, _: Array) -> tuple[Params, ModelState]:
    from flax import nnx

    _, params, _, state = _nnx_split(make(nnx.Rngs(key)))
    return nnx.to_pure_dict(params), nnx.to_pure_dict(state)


def _nnx_apply(
    make: Callable[[nnx.Rngs], nnx.Module],
    params: Params,
    model_state: ModelState,
    x: Array,
    key: Array | None,
    train: bool,
) -> tuple[Array, ModelState]:
    from flax import nnx

    # Shapes only: nothing is initialized, and every array is then replaced by the caller's.
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    module.train() if train else module.eval()
    graph, abstract_params, streams, abstract_state = _nnx_split(module)
    nnx.replace_by_pure_dict(abstract_params, params)
    nnx.replace_by_pure_dict(abstract_state, dict(model_state))
    module = nnx.merge(graph, abstract_params, _nnx_restart(streams, key), abstract_state)
    outputs = module(x)
    return outputs, nnx.to_pure_dict(_nnx_split(module)[3])


def _nnx_split(module: nnx.Module) -> Any:
    """Graph, parameters, what does not outlive a call, and model state."""
    from flax import nnx

    return nnx.split(module, nnx.Param, nnx.Any(nnx.RngState, nnx.Intermediate), ...)


def _nnx_restart(streams: nnx.State, key: Array | None) -> nnx.State:
    """The module's random streams, each restarted from a key of its own."""
    key = jax.random.key(0) if key is None else key
    leaves, structure = jax.tree.flatten(streams)
    restarted = [
        jax.random.split(jax.random.fold_in(key, i), leaf.shape)
        if is_typed_key(leaf)
        else jnp.zeros(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, restarted)


def _equinox_init(make: Callable[[Array], Any], key: Array, _: Array) -> tuple[Params, ModelState]:
    params, buffers, _, state = _equinox_split(make(key))
    return params, (buffers, state)


def _equinox_apply(
    make: Callable[[Array], Any], params: Params, model_state: ModelState, x: Array, key: Array | None, train: bool
) -> tuple[Array, ModelState]:
    import equinox as eqx

    # Shapes only: nothing is initialized, and every array is then replaced by the caller's.
    abstract_params, abstract_buffers, static, abstract_state = _equinox_split(
        eqx.filter_eval_shape(make, jax.random.key(0))
    )
    buffers, state = model_state or (None, None)
    buffers, state = _graft(buffers, abstract_buffers), _graft(state, abstract_state)
    module = eqx.combine(_graft(params, abstract_params), buffers, static)
    module = eqx.nn.inference_mode(module, value=not train)
    takes_key = "key" in inspect.signature(type(module).__call__).parameters
    keys = jax.random.split(key, len(x)) if key is not None and takes_key else None

    def one_example(x: Array, state: Any, key: Array | None) -> tuple[Array, Any]:
        random = {} if key is None else {"key": key}
        return (module(x, **random), None) if state is None else module(x, state, **random)

    outputs, state = jax.vmap(one_example, (0, None, 0), (0, None), axis_name="batch")(x, state, keys)
    return outputs, (buffers, state)


def _equinox_split(made: Any) -> tuple[Params, Any, Any, Any]:
    """Parameters, other arrays, what is no array, and the state (None without) of a module or its abstract shape."""
    import equinox as eqx

    module, state = made if isinstance(made, tuple) else (made, None)
    arrays, static = eqx.partition(module, lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct))
    params, buffers = eqx.partition(arrays, lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact))
    return params, buffers, static, state


def _graft(values: Any, template: Any) -> Any:
    """The leaves of one tree in the structure of another, where functions made anew make the structures unequal."""
    return jax.tree.unflatten(jax.tree.structure(template), jax.tree.leaves(values))


def _haiku_init(transformed: Any, mode: tuple[str, ...], key: Array, x: Array) -> tuple[Params, ModelState]:
    # Haiku creates batch-norm statistics in training mode only.
    return _haiku_with_state(transformed).init(key, x, **_mode_values(mode, True))


def _haiku_apply(
    transformed: Any,
    mode: tuple[str, ...],
    params: Params,
    model_state: ModelState,
    x: Array,
    key: Array | None,
    train: bool,
) -> tuple[Array, ModelState]:
    return _haiku_with_state(transformed).apply(params, dict(model_state), key, x, **_mode_values(mode, train))


def _haiku_with_state(transformed: Any) -> haiku.TransformedWithState:
    import haiku as hk

    return hk.with_empty_state(transformed) if isinstance(transformed, hk.Transformed) else transformed


def _mode_arguments(call: Callable[..., Any], train_argument: str | None) -> tuple[str, ...]:
    """Names of the arguments that tell a module its mode."""
    parameters = inspect.signature(call).parameters
    if train_argument is None:
        return tuple(name for name in parameters if name in _TRAIN_ARGUMENTS + _EVALUATE_ARGUMENTS)
    if train_argument not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(
            f"`train_argument` must be an argument of the module's `__call__`, one of {', '.join(parameters)}, "
            f"but {train_argument!r} came"
        )
    return (train_argument,)


def _mode_values(arguments: Iterable[str], train: bool) -> dict[str, Any]:
    return {name: train != (name in _EVALUATE_ARGUMENTS) for name in arguments}


def _check_callable(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"`{name}` must be a function, but {_name(value)} came")


def _check_make(make: Any, module_type: type) -> None:
    if not callable(make) or isinstance(make, module_type):
        raise TypeError(f"`make` must be a function that builds the module, such as its class, but {_name(make)} came")


def _check_key(key: Any) -> None:
    if not (isinstance(key, Array) and is_typed_key(key)):
        raise TypeError(f"`key` must be a typed key from jax.random.key, but {_name(key)} came")


def _name(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
