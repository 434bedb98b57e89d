"""The task record (training and test data with encoded targets), label encodings and task transformations."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.errors import check_array, check_choice, check_positive, concrete
from genjax.random import is_typed_key

KINDS = ("classification", "regression")
LABEL_ENCODINGS = ("one_hot", "centered_one_hot", "plus_minus_one")
ENCODINGS = (*LABEL_ENCODINGS, "none")


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
    """Training and test data with targets already encoded as numbers; a pytree, so it passes through ``jit``.

    Build one with :func:`make_task` (which checks) or :func:`genjax.tasks.load_task`.

    Attributes:
      x_train: ``float[n, ...]``, training inputs.
      y_train: ``float[n, k]``, training targets.
      x_test: ``float[m, ...]``, test inputs.
      y_test: ``float[m, k]``, test targets.
      name: short name of the source.
      kind: ``"classification"`` or ``"regression"``.
      encoding: how labels became targets: ``"one_hot"``, ``"centered_one_hot"``, ``"plus_minus_one"`` or ``"none"``.
      provenance: one sentence on the source, split, scaling, encoding and any noise added.
    """

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    name: str = _static()
    kind: str = _static()
    encoding: str = _static()
    provenance: str = _static()

    @property
    def n_train(self) -> int:
        """Number of training examples."""
        return self.x_train.shape[0]

    @property
    def n_test(self) -> int:
        """Number of test examples."""
        return self.x_test.shape[0]

    @property
    def n_outputs(self) -> int:
        """Number of target columns."""
        return self.y_train.shape[-1]


def make_task(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    name: str = "custom",
    kind: str = "regression",
    encoding: str = "none",
    provenance: str = "Arrays given by the caller.",
) -> Task:
    """Check four arrays and bundle them into a task.

    Args:
      x_train: ``[n, ...]``, training inputs; one axis ``[n]`` becomes ``[n, 1]``.
      y_train: ``[n, k]`` or ``[n]`` (then ``k = 1``), training targets, already encoded (see :func:`encode_labels`).
      x_test: ``[m, ...]``, test inputs of the training inputs' trailing shape.
      y_test: ``[m, k]`` or ``[m]``, test targets.
      name: short name.
      kind: ``"classification"`` or ``"regression"``.
      encoding: how labels became targets; ``"none"`` for regression, or for scores that are not encoded labels.
      provenance: one sentence saying where the data come from.

    Returns:
      The task; arrays are of the default float dtype (float64 if and only if x64 is on).

    Raises:
      TypeError: an array is not numeric.
      ValueError: empty or non-finite arrays, unequal lengths or shapes, or targets that do not follow ``encoding``.
    """
    check_choice("kind", kind, KINDS)
    check_choice("encoding", encoding, ENCODINGS)
    if kind == "regression" and encoding != "none":
        raise ValueError(f"`encoding` must be 'none' for regression, but {encoding!r} came")
    x_train, y_train = _check_pair("x_train", x_train, "y_train", y_train)
    x_test, y_test = _check_pair("x_test", x_test, "y_test", y_test)
    if x_test.shape[1:] != x_train.shape[1:]:
        raise ValueError(
            f"`x_test` must have inputs of shape {x_train.shape[1:]} as `x_train`, but theirs is {x_test.shape[1:]}"
        )
    if y_test.shape[1] != y_train.shape[1]:
        raise ValueError(f"`y_test` must have {y_train.shape[1]} columns as `y_train`, but it has {y_test.shape[1]}")
    if encoding != "none":
        _check_encoded("y_train", y_train, encoding)
        _check_encoded("y_test", y_test, encoding)
    return Task(x_train, y_train, x_test, y_test, name=name, kind=kind, encoding=encoding, provenance=provenance)


def _check_pair(x_name: str, x: Any, y_name: str, y: Any) -> tuple[Array, Array]:
    x, y = _check_examples(x_name, x), _check_examples(y_name, y)
    if y.ndim != 2:
        raise ValueError(f"`{y_name}` must have shape [n] or [n, k], but its shape is {y.shape}")
    if len(x) != len(y):
        raise ValueError(f"`{y_name}` must have {len(x)} rows as `{x_name}`, but it has {len(y)}")
    return x, y


def _check_examples(name: str, value: Any) -> Array:
    array = check_array(name, value).astype(float)
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"`{name}` must be a non-empty array of examples, but its shape is {array.shape}")
    return array[:, None] if array.ndim == 1 else array


def _check_encoded(name: str, targets: Array, encoding: str) -> None:
    width = targets.shape[1]
    if (width == 1) != (encoding == "plus_minus_one"):
        raise ValueError(f"`{name}` has {width} columns, which is not {encoding!r}; encode labels with `encode_labels`")
    expected = concrete(encode_labels(decode_labels(targets, encoding), encoding, max(width, 2)))
    known = concrete(targets)
    # 1e-6: targets may have been through float32, whose rounding of entries below one is under 1e-7.
    if known is not None and expected is not None and not np.allclose(known, expected, rtol=0, atol=1e-6):
        raise ValueError(f"`{name}` does not hold {encoding!r} targets; encode labels with `encode_labels` first")


def encode_labels(labels: Any, encoding: str, n_classes: int) -> Array:
    r"""Numerical targets for integer labels.

    With ``labels`` :math:`c_i` and ``n_classes`` :math:`k`: ``"one_hot"`` is :math:`y_{ij} = [c_i = j]`,
    ``"centered_one_hot"`` is :math:`[c_i = j] - 1/k` (rows sum to zero), ``"plus_minus_one"`` is the single column
    :math:`2 c_i - 1` for two classes.

    Args:
      labels: ``int[n]``, each in ``0 .. n_classes - 1``.
      encoding: ``"one_hot"``, ``"centered_one_hot"`` or ``"plus_minus_one"``.
      n_classes: number of classes, at least two.

    Returns:
      ``float[n, k]``, or ``float[n, 1]`` for ``"plus_minus_one"``, of the default float dtype.

    Raises:
      TypeError: labels are not integers.
      ValueError: a label out of range, an unknown encoding, or ``"plus_minus_one"`` with more than two classes.
    """
    check_choice("encoding", encoding, LABEL_ENCODINGS)
    check_positive("n_classes", n_classes, integer=True)
    if n_classes < 2:
        raise ValueError(f"`n_classes` must be at least 2, but {n_classes} came")
    if encoding == "plus_minus_one" and n_classes != 2:
        raise ValueError(
            f"`encoding` 'plus_minus_one' needs exactly 2 classes, but there are {n_classes}: "
            "pick two with `classes=(a, b)`"
        )
    # The range is checked before the conversion to JAX, which without x64 would wrap large 64-bit labels around.
    known = concrete(labels)
    array = labels if known is None else known
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"`labels` must be integers, but their dtype is {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"`labels` must have shape [n], but their shape is {array.shape}")
    if known is not None and known.size and (known.min() < 0 or known.max() >= n_classes):
        raise ValueError(
            f"`labels` must be in 0 .. {n_classes - 1}, but they range from {known.min()} to {known.max()}"
        )
    array = jnp.asarray(array)
    if encoding == "plus_minus_one":
        return 2 * array.astype(float)[:, None] - 1
    one_hot = jax.nn.one_hot(array, n_classes, dtype=float)
    return one_hot - 1 / n_classes if encoding == "centered_one_hot" else one_hot


def decode_labels(targets: Any, encoding: str) -> Array:
    """Labels for targets or for a model's outputs; the inverse of :func:`encode_labels`.

    Args:
      targets: ``float[n, k]``; for ``"plus_minus_one"`` ``float[n, 1]``.
      encoding: ``"one_hot"``, ``"centered_one_hot"`` or ``"plus_minus_one"``.

    Returns:
      ``int[n]``: the column of the largest entry (the first one in a tie), or for ``"plus_minus_one"`` 1 where the
      entry is positive and 0 elsewhere.

    Raises:
      ValueError: an unknown encoding or a wrong shape.
    """
    check_choice("encoding", encoding, LABEL_ENCODINGS)
    targets = check_array("targets", targets, ndim=2, finite=False)
    if encoding == "plus_minus_one":
        if targets.shape[1] != 1:
            raise ValueError(f"`targets` must have one column for 'plus_minus_one', but their shape is {targets.shape}")
        return (targets[:, 0] > 0).astype(int)
    return jnp.argmax(targets, axis=1).astype(int)


def subset(task: Task, n_train: int | None = None, n_test: int | None = None) -> Task:
    """Task with the first examples only.

    Args:
      task: the task.
      n_train: number of training examples to keep; None keeps all.
      n_test: number of test examples to keep; None keeps all.

    Returns:
      The smaller task.

    Raises:
      ValueError: more were asked for than there are.
    """
    for name, asked, available in (("n_train", n_train, task.n_train), ("n_test", n_test, task.n_test)):
        if asked is None:
            continue
        check_positive(name, asked, integer=True)
        if asked > available:
            raise ValueError(f"`{name}` must be at most {available}, the examples in the task, but {asked} came")
    train, test = slice(n_train), slice(n_test)
    smaller = dataclasses.replace(
        task,
        x_train=task.x_train[train],
        y_train=task.y_train[train],
        x_test=task.x_test[test],
        y_test=task.y_test[test],
    )
    return _add_provenance(smaller, f"the first {smaller.n_train} training and {smaller.n_test} test examples kept")


def add_label_noise(key: Array, task: Task, fraction: float) -> Task:
    r"""Task with part of the training labels replaced by uniformly drawn ones.

    Exactly ``round(fraction * n)`` training examples (halves round to even) are chosen uniformly without repetition,
    and each gets a label drawn uniformly from *all* ``k`` classes, its own included. A noisy label is therefore wrong
    with probability :math:`(k - 1) / k` only. Test labels stay clean.

    Args:
      key: typed key from ``jax.random.key``.
      task: a classification task.
      fraction: share of training labels to replace, in ``[0, 1]``.

    Returns:
      The task with noisy ``y_train``, encoded as before.

    Raises:
      TypeError: ``key`` is not a typed key.
      ValueError: ``fraction`` is out of range, or the task does not hold encoded labels.

    References:
      Zhang et al. (2017), Understanding deep learning requires rethinking generalization, section 2.1
      ("partially corrupted labels"); there each label is chosen independently, here their number is fixed.
    """
    _check_key(key)
    if task.kind != "classification" or task.encoding == "none":
        raise ValueError(
            f"`task` must be a classification task with encoded labels, but its kind is {task.kind!r} "
            f"and its encoding {task.encoding!r}"
        )
    if not 0 <= fraction <= 1:
        raise ValueError(f"`fraction` must be in [0, 1], but {fraction!r} came")
    n_noisy = round(fraction * task.n_train)
    n_classes = max(task.n_outputs, 2)
    which_key, label_key = jax.random.split(key)
    which = jax.random.choice(which_key, task.n_train, (n_noisy,), replace=False)
    noise = encode_labels(jax.random.randint(label_key, (n_noisy,), 0, n_classes), task.encoding, n_classes)
    noisy = dataclasses.replace(task, y_train=task.y_train.at[which].set(noise.astype(task.y_train.dtype)))
    return _add_provenance(noisy, f"{n_noisy} of {task.n_train} training labels redrawn uniformly")


def add_noise_dimensions(key: Array, task: Task, n_dimensions: int, scale: Any) -> Task:
    r"""Task with uninformative Gaussian input features appended.

    The new features are independent :math:`N(0, \text{scale}^2)` for every training and test example.

    Args:
      key: typed key from ``jax.random.key``.
      task: a task with inputs ``[n, d]``.
      n_dimensions: number of features to append.
      scale: standard deviation of the features, ``float[]``, not negative.

    Returns:
      The task with inputs ``[n, d + n_dimensions]``, the original features first.

    Raises:
      TypeError: ``key`` is not a typed key.
      ValueError: inputs are not two-dimensional, or an argument is out of range.
    """
    _check_key(key)
    check_positive("n_dimensions", n_dimensions, integer=True)
    scale = check_array("scale", scale, ndim=0, minimum=0)
    if task.x_train.ndim != 2:
        raise ValueError(
            f"`task` must have inputs of shape [n, d], but theirs is {task.x_train.shape}; load with flatten=True"
        )

    def widen(noise_key: Array, x: Array) -> Array:
        noise = scale * jax.random.normal(noise_key, (len(x), n_dimensions), x.dtype)
        return jnp.concatenate([x, noise.astype(x.dtype)], axis=1)

    train_key, test_key = jax.random.split(key)
    wider = dataclasses.replace(task, x_train=widen(train_key, task.x_train), x_test=widen(test_key, task.x_test))
    known = concrete(scale)
    size = "traced" if known is None else f"{known:g}"
    return _add_provenance(wider, f"{n_dimensions} Gaussian noise features of standard deviation {size} appended")


def _check_key(key: Any) -> None:
    if not (isinstance(key, Array) and is_typed_key(key) and key.shape == ()):
        raise TypeError(f"`key` must be one typed key from jax.random.key, but {type(key).__name__} {key} came")


def _add_provenance(task: Task, clause: str) -> Task:
    return dataclasses.replace(task, provenance=f"{task.provenance.rstrip('.')}; {clause}.")
