"""From a source's name or a user's file to a task: split, scale, encode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genjax.errors import check_choice, check_positive
from genjax.tasks.files import IMAGE_SETS, load_image_set
from genjax.tasks.sources import BUNDLED, Raw, load_bundled
from genjax.tasks.tables import TABLE_SUFFIXES, read_table
from genjax.tasks.task import LABEL_ENCODINGS, Task, encode_labels, make_task

SOURCES = (*BUNDLED, *IMAGE_SETS)
SCALINGS = ("none", "unit", "standardize", "sphere")

_Pair = tuple[np.ndarray, np.ndarray]


def load_task(
    source: str | Path,
    *,
    n_train: int,
    n_test: int,
    seed: int = 0,
    encoding: str | None = None,
    scaling: str = "unit",
    standardize_targets: bool = False,
    classes: Sequence[int | str] | None = None,
    flatten: bool = True,
    data_dir: str | Path | None = None,
    target: str | int | None = None,
    kind: str | None = None,
) -> Task:
    """Load a data set by name or from a file, and split, scale and encode it.

    The split is ``p = numpy.random.default_rng(seed).permutation(n)`` over the data left after ``classes``: the first
    ``n_train`` entries of ``p`` are training, the next ``n_test`` are test examples. A source with its own test split
    has two permutations drawn from that generator, one of its training data, then one of its test data.

    Args:
      source: ``"digits"``, ``"breast_cancer"``, ``"wine"``, ``"iris"``, ``"diabetes"`` (shipped with scikit-learn);
        ``"mnist"``, ``"fashion_mnist"``, ``"cifar10"`` (local files, see :func:`load_image_set`); or the path of a
        ``.npz`` or ``.csv`` file (see :func:`read_table`).
      n_train: number of training examples.
      n_test: number of test examples.
      seed: seed of the split, a whole number that is not negative.
      encoding: ``"one_hot"``, ``"centered_one_hot"`` or ``"plus_minus_one"`` (see :func:`encode_labels`); None means
        ``"one_hot"``. For regression it must be None or ``"none"``.
      scaling: of the inputs. ``"none"``: as they come. ``"unit"``: divided by the largest value the format allows (16
        for digits, 255 for the image sets), for other sources by the largest absolute training input.
        ``"standardize"``: zero mean and unit variance (divisor n) per feature by training statistics; a feature that
        is constant in training becomes zero. ``"sphere"``: each input divided by its Euclidean norm; zero inputs stay
        zero.
      standardize_targets: whether regression targets get zero mean and unit variance by training statistics.
      classes: labels to keep, renumbered 0, 1, ... in the order given; as numbers, or for a user's file as written
        there. None keeps all.
      flatten: whether inputs become ``[n, d]``; otherwise images are ``[n, h, w]`` or ``[n, h, w, 3]``.
      data_dir: folder of the local image files; None means the environment variable ``GENJAX_DATA``, or ``data``.
      target: the target column of a CSV file, by name or index; None means the last.
      kind: ``"classification"`` or ``"regression"`` for a user's file; None decides by its target.

    Returns:
      The task, in the default float dtype, with its provenance written out.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: an option is unknown or does not fit the source, more examples were asked for than there are, or a
        file is damaged.

    Example:
      >>> task = load_task("digits", n_train=500, n_test=500)
      >>> task.x_train.shape, task.y_train.shape
      ((500, 64), (500, 10))
    """
    check_positive("n_train", n_train, integer=True)
    check_positive("n_test", n_test, integer=True)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"`seed` must be a whole number that is not negative, but {seed!r} came")
    check_choice("scaling", scaling, SCALINGS)
    raw = _read(source, data_dir, target, kind)
    encoding = _choose_encoding(raw, encoding, standardize_targets)
    if classes is not None:
        raw = _keep_classes(raw, classes)
    (x_train, y_train), (x_test, y_test), split_note = _split(raw, n_train, n_test, seed)
    if flatten:
        x_train, x_test = x_train.reshape(n_train, -1), x_test.reshape(n_test, -1)
    x_train, x_test, input_note = _scale(x_train, x_test, scaling, raw.input_range)
    if raw.n_classes is not None:
        target_note = f"{encoding} targets of {raw.n_classes} classes"
        if classes is not None:
            target_note += f" ({', '.join(map(str, classes))})"
        y_train = np.asarray(encode_labels(y_train, encoding, raw.n_classes))
        y_test = np.asarray(encode_labels(y_test, encoding, raw.n_classes))
    elif standardize_targets:
        y_train, y_test = _standardize(y_train, y_test)
        target_note = "targets standardized by training statistics"
    else:
        target_note = "targets as they come"
    return make_task(
        x_train,
        y_train,
        x_test,
        y_test,
        name=raw.name,
        kind=raw.kind,
        encoding=encoding,
        provenance=f"{raw.origin}; {split_note}; {input_note}; {target_note}.",
    )


def _read(source: str | Path, data_dir: str | Path | None, target: str | int | None, kind: str | None) -> Raw:
    suffix = Path(source).suffix if isinstance(source, str | Path) else None
    if source not in SOURCES and suffix in TABLE_SUFFIXES:
        return read_table(source, target, kind=kind)
    check_choice("source", source, (*SOURCES, *(f"a path ending in {end}" for end in TABLE_SUFFIXES)))
    for name, value in (("target", target), ("kind", kind)):
        if value is not None:
            raise ValueError(f"`{name}` is for a user's file, so it must be None for {source}, but {value!r} came")
    return load_bundled(str(source)) if source in BUNDLED else load_image_set(str(source), data_dir)


def _choose_encoding(raw: Raw, encoding: str | None, standardize_targets: bool) -> str:
    if raw.kind == "regression":
        if encoding not in (None, "none"):
            raise ValueError(f"`encoding` must be None or 'none' for regression ({raw.name}), but {encoding!r} came")
        return "none"
    if standardize_targets:
        raise ValueError(f"`standardize_targets` is for regression, but {raw.name} is a classification source")
    check_choice("encoding", encoding or "one_hot", LABEL_ENCODINGS)
    return encoding or "one_hot"


def _keep_classes(raw: Raw, classes: Sequence[int | str]) -> Raw:
    if raw.classes is None:
        raise ValueError(f"`classes` is for classification, but {raw.name} is a regression source")
    if isinstance(classes, str) or not isinstance(classes, Sequence) or len(set(classes)) < max(2, len(classes)):
        raise ValueError(f"`classes` must be a sequence of at least two different labels, but {classes!r} came")
    unknown = [label for label in classes if label not in raw.classes]
    if unknown:
        raise ValueError(
            f"`classes` must be among {', '.join(map(repr, raw.classes))}, but {', '.join(map(repr, unknown))} came"
        )
    kept = [raw.classes.index(label) for label in classes]
    new_label = np.full(len(raw.classes), -1)
    new_label[kept] = np.arange(len(kept))

    def keep(x: np.ndarray, y: np.ndarray) -> _Pair:
        mask = np.isin(y, kept)
        return x[mask], new_label[y[mask]]

    x, y = keep(raw.x, raw.y)
    raw = raw._replace(x=x, y=y, classes=tuple(classes))
    if raw.x_test is None or raw.y_test is None:
        return raw
    x_test, y_test = keep(raw.x_test, raw.y_test)
    return raw._replace(x_test=x_test, y_test=y_test)


def _split(raw: Raw, n_train: int, n_test: int, seed: int) -> tuple[_Pair, _Pair, str]:
    rng = np.random.default_rng(seed)
    n = len(raw.x)
    if raw.x_test is None or raw.y_test is None:
        if n_train + n_test > n:
            raise ValueError(
                f"`n_train` + `n_test` must be at most {n}, the examples in {raw.name}, "
                f"but {n_train} + {n_test} = {n_train + n_test} came"
            )
        order = rng.permutation(n)
        train, test = order[:n_train], order[n_train : n_train + n_test]
        x_pool, y_pool, size = raw.x, raw.y, f"{n}"
    else:
        x_pool, y_pool = raw.x_test, raw.y_test
        for name, asked, available in (("n_train", n_train, n), ("n_test", n_test, len(x_pool))):
            if asked > available:
                raise ValueError(f"`{name}` must be at most {available} for {raw.name}, but {asked} came")
        train, test = rng.permutation(n)[:n_train], rng.permutation(len(x_pool))[:n_test]
        size = f"{n} training and {len(x_pool)} test"
    note = f"{n_train} training and {n_test} test examples drawn from {size} with seed {seed}"
    return (_as_float(raw.x[train]), raw.y[train]), (_as_float(x_pool[test]), y_pool[test]), note


def _as_float(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def _scale(x_train: np.ndarray, x_test: np.ndarray, scaling: str, known_range: float | None) -> tuple[Any, Any, str]:
    if scaling == "unit":
        # All-zero inputs have no scale; dividing them by one leaves them as they are.
        divisor = float(known_range or np.abs(x_train).max() or 1)
        return x_train / divisor, x_test / divisor, f"inputs divided by {divisor:g}"
    if scaling == "standardize":
        return *_standardize(x_train, x_test), "inputs standardized by training statistics"
    if scaling == "sphere":
        return _normalize(x_train), _normalize(x_test), "each input scaled to unit norm"
    return x_train, x_test, "inputs unscaled"


def _standardize(train: np.ndarray, test: np.ndarray) -> _Pair:
    # Compared exactly: the computed deviation of a constant feature is rounding noise, not always zero.
    is_constant = train.max(axis=0) == train.min(axis=0)
    deviation = np.where(is_constant, 1, train.std(axis=0))
    mean = train.mean(axis=0)

    def scaled(part: np.ndarray) -> np.ndarray:
        return np.where(is_constant, 0, (part - mean) / deviation)

    return scaled(train), scaled(test)


def _normalize(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x.reshape(len(x), -1), axis=1).reshape(-1, *[1] * (x.ndim - 1))
    return x / np.where(norms == 0, 1, norms)
