"""A function's parameters at the equations where they meet data, each with a tap on the result.

The function of one example is traced to its equations. A parameter is followed through reshapes, transposes, casts and
scalings, into compiled, rematerialized and scanned parts, to the one equation where it multiplies or shifts data. That
equation's output gets a zero added, the tap: reverse differentiation with respect to the taps gives every cotangent
the Gram rules need, and never a gradient of the size of a weight. A parameter that is used twice, or in any other way,
stays a plain variable; differentiating with respect to it gives its Jacobian.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from genjax.ntk.contractions import Layer, conv, dense, elementwise, embedding, shape_of

# Calls without rules of their own for differentiation: evaluating their inside changes nothing.
_CALLS = {"pjit", "jit", "closed_call", "core_call", "checkpoint", "remat", "remat2"}


@dataclasses.dataclass(frozen=True)
class _View:
    """A value that is a parameter up to the order of its entries, a factor, a shift and repetition.

    Attributes:
      leaf: index of the parameter.
      copied: for each axis, whether the parameter is repeated along it.
      factor: scalar that multiplies the parameter; None is one.
      loops: for each scan around, outermost first: is another slice used each time (or the whole), and its length.
    """

    leaf: int
    copied: tuple[bool, ...]
    factor: Any = None
    loops: tuple[tuple[bool, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Tap:
    """The equation of a parameter, with the axes of the scans around it in front.

    Attributes:
      kind: dense, conv, embedding, scale or bias.
      output: shape and dtype of the equation's output, hence of its cotangent.
      shape: (g, t, d, p), see :mod:`genjax.ntk.contractions`.
      inputs: brings the data of one run, with its axes of scans, to a.
      cotangents: brings a cotangent of ``output`` to b.
    """

    kind: str
    output: jax.ShapeDtypeStruct
    shape: tuple[int, int, int, int]
    inputs: Callable[[Array], Array]
    cotangents: Callable[[Array], Array]


@dataclasses.dataclass
class _Run:
    """One evaluation: the taps to add, and what it found."""

    taps: Mapping[int, Array] | None = None
    layers: dict[tuple[int, ...], tuple[_View, Layer, Array]] = dataclasses.field(default_factory=dict)
    inputs: dict[int, Array] = dataclasses.field(default_factory=dict)
    unrecognized: set[int] = dataclasses.field(default_factory=set)


def find_taps(jaxpr: ClosedJaxpr, n_leaves: int) -> dict[int, Tap]:
    """Taps of the parameters used once and in a known way, by index; arguments begin with ``n_leaves`` parameters."""
    run = _Run()
    taps: dict[int, Tap] = {}

    def evaluate(*arguments: Array) -> None:
        views = [_View(k, (False,) * arguments[k].ndim) if k < n_leaves else None for k in range(len(arguments))]
        _, out = _evaluate(jaxpr.jaxpr, jaxpr.consts, arguments, views, run, ())
        run.unrecognized |= {view.leaf for view in out if view}
        used = [view.leaf for view, _, _ in run.layers.values()]
        for view, layer, output in run.layers.values():
            if used.count(view.leaf) == 1 and view.leaf not in run.unrecognized:
                taps[view.leaf] = _tap(view, layer, output)

    jax.eval_shape(evaluate, *(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in jaxpr.jaxpr.invars))
    return taps


def tapped(jaxpr: ClosedJaxpr, taps: Mapping[int, Array], arguments: Sequence[Array]) -> tuple[Array, dict[int, Array]]:
    """The function's output with taps added, and the data a that each tapped parameter met."""
    views = [_View(k, (False,) * jnp.ndim(arguments[k])) if k in taps else None for k in range(len(arguments))]
    run = _Run(taps)
    (output, *_), _ = _evaluate(jaxpr.jaxpr, jaxpr.consts, arguments, views, run, ())
    return output, run.inputs


def channels_last(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its convolutions, those of derivatives too, in the one layout that is fast everywhere.

    Inside of loops XLA for CPUs takes any other layout to code tens of times slower.
    """

    def evaluate(*arguments: Any) -> Any:
        jaxpr, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        outputs, _ = _evaluate(jaxpr.jaxpr, jaxpr.consts, leaves, [None] * len(leaves), _Run(), ())
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return evaluate


def _tap(view: _View, layer: Layer, output: Array) -> Tap:
    arrange, slices = layer.arrange, [sliced for sliced, _ in view.loops]
    for _ in slices:
        arrange = jax.vmap(arrange)

    def cotangents(cotangent: Array) -> Array:
        return _merge_loops(slices, arrange(cotangent))

    whole = jax.ShapeDtypeStruct((*(length for _, length in view.loops), *output.shape), output.dtype)
    g, t, p = jax.eval_shape(cotangents, whole).shape
    return Tap(layer.kind, whole, (g, t, layer.n_rows, p), partial(_merge_loops, slices), cotangents)


def _merge_loops(slices: Sequence[bool], x: Array) -> Array:
    """``[*loops, g, t, ...]`` to ``[g, t, ...]``: other slices are other groups, the same weight has more positions."""
    n = len(slices)
    sliced = [k for k in range(n) if slices[k]]
    repeated = [k for k in range(n) if not slices[k]]
    x = x.transpose(*sliced, n, *repeated, *range(n + 1, x.ndim))
    g, t = (math.prod(part) for part in (x.shape[: len(sliced) + 1], x.shape[len(sliced) + 1 : n + 2]))
    return x.reshape(g, t, *x.shape[n + 2 :])


def _evaluate(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    arguments: Sequence[Any],
    views: Sequence[_View | None],
    run: _Run,
    path: tuple[int, ...],
) -> tuple[list[Any], list[_View | None]]:
    """Values of the outputs, and which of them are parameters."""
    values: dict[Var, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    followed = {var: view for var, view in zip(jaxpr.invars, views, strict=True) if view}

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    def view_of(var: Any) -> _View | None:
        return None if isinstance(var, Literal) else followed.get(var)

    for k, eqn in enumerate(jaxpr.eqns):
        inputs, parameters = [read(v) for v in eqn.invars], [view_of(v) for v in eqn.invars]
        found: list[_View | None] = [None] * len(eqn.outvars)
        if not any(parameters):
            outputs = _bind(eqn, inputs)
        elif eqn.primitive.name in _CALLS and (inner := _inner(eqn)):
            outputs, found = _evaluate(inner.jaxpr, inner.consts, inputs, parameters, run, (*path, k))
        elif eqn.primitive.name == "scan":
            outputs = _scan(eqn, inputs, parameters, run, (*path, k))
        else:
            outputs, found = _meet(eqn, inputs, parameters, run, (*path, k))
        values.update(zip(eqn.outvars, outputs, strict=True))
        followed.update({var: view for var, view in zip(eqn.outvars, found, strict=True) if view})
    return [read(v) for v in jaxpr.outvars], [view_of(v) for v in jaxpr.outvars]


def _bind(eqn: JaxprEqn, inputs: Sequence[Any]) -> list[Any]:
    if eqn.primitive.name == "conv_general_dilated":
        return [_channels_last(eqn, *inputs)]
    # Newer versions of JAX keep inner functions among the parameters.
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    outputs = eqn.primitive.bind(*functions, *inputs, **params)
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _channels_last(eqn: JaxprEqn, x: Array, w: Array) -> Array:
    lhs, rhs, out = eqn.params["dimension_numbers"]
    n = x.ndim
    last = (0, n - 1, *range(1, n - 1))
    numbers = jax.lax.ConvDimensionNumbers(last, (n - 1, n - 2, *range(n - 2)), last)
    x, w = x.transpose(lhs[0], *lhs[2:], lhs[1]), w.transpose(*rhs[2:], rhs[1], rhs[0])
    y = eqn.primitive.bind(x, w, **(eqn.params | {"dimension_numbers": numbers}))
    return y.transpose(np.argsort((out[0], *out[2:], out[1])))


def _inner(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """What a call evaluates."""
    for value in eqn.params.values():
        if isinstance(value, ClosedJaxpr):
            return value
        if isinstance(value, Jaxpr) and not value.constvars:
            return ClosedJaxpr(value, ())
    return None


def _meet(
    eqn: JaxprEqn, inputs: Sequence[Any], parameters: Sequence[_View | None], run: _Run, path: tuple[int, ...]
) -> tuple[list[Any], list[_View | None]]:
    """Evaluate an equation with parameters among its inputs: it changes their view, or is theirs, or is unknown."""
    outputs = _bind(eqn, inputs)
    nothing: list[_View | None] = [None] * len(outputs)
    present = [(k, view) for k, view in enumerate(parameters) if view]
    if len(present) == 1:
        ((position, view),) = present
        changed = _change(eqn, position, view, inputs)
        if changed:
            return outputs, [changed]
        layer = _layer(eqn, position, view, inputs)
        if layer:
            run.layers[path] = (view, layer, outputs[0])
            if run.taps is not None:
                outputs = [outputs[0] + run.taps[view.leaf]]
                run.inputs[view.leaf] = layer.inputs
            return outputs, nothing
    run.unrecognized |= {view.leaf for _, view in present}
    return outputs, nothing


def _change(eqn: JaxprEqn, position: int, view: _View, inputs: Sequence[Any]) -> _View | None:
    """The view after an equation that keeps a parameter a parameter."""
    name, params = eqn.primitive.name, eqn.params
    before = shape_of(eqn.invars[position])
    after = shape_of(eqn.outvars[0])
    if name in ("copy", "optimization_barrier") and len(eqn.outvars) == 1:
        return view
    if name == "neg":
        return _scaled(view, -1)
    if name == "convert_element_type":
        return view if jnp.issubdtype(params["new_dtype"], jnp.floating) else None
    if name in ("mul", "div", "add", "sub") and jnp.ndim(inputs[1 - position]) == 0 and before == after:
        scalar = inputs[1 - position]
        if name == "mul":
            return _scaled(view, scalar)
        if name == "div":
            return _scaled(view, 1 / scalar) if position == 0 else None
        return _scaled(view, -1) if name == "sub" and position == 1 else view
    copied: tuple[bool, ...] | None = None
    if name == "transpose":
        copied = tuple(view.copied[k] for k in params["permutation"])
    elif name == "broadcast_in_dim":
        source = {out: k for k, out in enumerate(params["broadcast_dimensions"])}
        copied = tuple(
            view.copied[source[k]] or before[source[k]] != n if k in source else n > 1 for k, n in enumerate(after)
        )
    elif name == "squeeze" or (name == "reshape" and params["dimensions"] is None):
        copied = _reshaped(view.copied, before, after)
    return None if copied is None else dataclasses.replace(view, copied=copied)


def _scaled(view: _View, factor: Any) -> _View:
    return dataclasses.replace(view, factor=factor if view.factor is None else view.factor * factor)


def _reshaped(copied: tuple[bool, ...], before: Sequence[int], after: Sequence[int]) -> tuple[bool, ...] | None:
    if not any(copied):
        return (False,) * len(after)
    longer = [flag for flag, n in zip(copied, before, strict=True) if n != 1]
    if [n for n in before if n != 1] != [n for n in after if n != 1]:
        return None
    remaining = iter(longer)
    return tuple(next(remaining) if n != 1 else False for n in after)


def _layer(eqn: JaxprEqn, position: int, view: _View, inputs: Sequence[Any]) -> Layer | None:
    name = eqn.primitive.name
    layer = None
    if name in ("add", "sub", "mul"):
        before, after = shape_of(eqn.invars[position]), shape_of(eqn.outvars[0])
        flags = view.copied if before else (False,) * len(after)
        copied = tuple(flag or n != m for flag, n, m in zip(flags, before or (1,) * len(after), after, strict=True))
        layer = elementwise(eqn, copied, inputs[1 - position])
    elif not any(view.copied):
        rule = {"dot_general": dense, "conv_general_dilated": conv, "gather": embedding}.get(name)
        layer = rule(eqn, position, inputs[1 - position]) if rule else None
    if layer is None or view.factor is None:
        return layer
    return None if layer.kind == "embedding" else dataclasses.replace(layer, inputs=layer.inputs * view.factor)


def _scan(
    eqn: JaxprEqn, inputs: Sequence[Any], parameters: Sequence[_View | None], run: _Run, path: tuple[int, ...]
) -> list[Any]:
    """Scan with the taps of its body among what is scanned over, and the data they met among what it returns."""
    closed, length = eqn.params["jaxpr"], eqn.params["length"]
    first, last = eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"]
    carried: list[_View | None] = [None] * (last - first)
    whole = [_looped(view, False, length) for view in parameters[:first]]
    views = [*whole, *carried, *(_looped(view, True, length) for view in parameters[last:])]
    run.unrecognized |= {old.leaf for old, new in zip(parameters, views, strict=True) if old and not new}
    taps = None if run.taps is None else {v.leaf: run.taps[v.leaf] for v in views if v}

    def body(carry: list[Any], step: tuple[list[Any], Any]) -> tuple[list[Any], tuple[list[Any], dict[int, Array]]]:
        xs, step_taps = step
        inner = _Run(step_taps)
        arguments = [*inputs[:first], *carry, *xs]
        outputs, out = _evaluate(closed.jaxpr, closed.consts, arguments, views, inner, path)
        run.layers.update(inner.layers)
        run.unrecognized |= inner.unrecognized | {view.leaf for view in out if view}
        return outputs[: last - first], (outputs[last - first :], inner.inputs)

    carry, (ys, met) = jax.lax.scan(
        body,
        list(inputs[first:last]),
        (list(inputs[last:]), taps),
        length=length,
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    run.inputs.update(met)
    inside = {view.leaf for where, (view, _, _) in run.layers.items() if where[: len(path)] == path}
    run.unrecognized |= {view.leaf for view in views if view} - inside
    return [*carry, *ys]


def _looped(view: _View | None, sliced: bool, length: int) -> _View | None:
    if view is None or (sliced and view.copied[0]):
        return None
    copied = view.copied[1:] if sliced else view.copied
    return dataclasses.replace(view, copied=copied, loops=(*view.loops, (sliced, length)))
