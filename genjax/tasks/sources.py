"""Data as a source holds them, before splitting, scaling and encoding; and the sources scikit-learn ships."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from genjax.errors import check_choice

BUNDLED = ("digits", "breast_cancer", "wine", "iris", "diabetes")


class Raw(NamedTuple):
    """Unscaled data of one source, as NumPy arrays.

    Attributes:
      x: ``[n, ...]``, inputs; float64, or uint8 for images (converted after rows are picked: all of CIFAR-10 in
        float64 would take 1.2 GB).
      y: ``int[n]`` labels ``0 .. n_classes - 1`` for classification, else ``float64[n]`` or ``float64[n, k]``.
      classes: what each label stands for in the source, in label order; None for regression.
      x_test: test inputs when the source has its own test split, else None.
      y_test: test labels or targets, or None.
      name: short name.
      kind: ``"classification"`` or ``"regression"``.
      input_range: the largest input the format allows when that is known (16 for digits, 255 for images), else None.
      origin: where the data were read from, in words.
    """

    x: np.ndarray
    y: np.ndarray
    classes: tuple[str | int, ...] | None
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    name: str
    kind: str
    input_range: float | None = None
    origin: str = ""

    @property
    def n_classes(self) -> int | None:
        """Number of classes, or None for regression."""
        return None if self.classes is None else len(self.classes)


def load_bundled(name: str) -> Raw:
    """Read a data set that scikit-learn ships, without any download.

    Args:
      name: ``"digits"``, ``"breast_cancer"``, ``"wine"``, ``"iris"`` (classification) or ``"diabetes"`` (regression).

    Returns:
      The raw data; digits as images ``[n, 8, 8]``, the others ``[n, d]``. Diabetes features come as measured, not as
      scikit-learn normalizes them.

    Raises:
      ValueError: an unknown name.
    """
    check_choice("name", name, BUNDLED)
    from sklearn import datasets

    options = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**options)
    is_regression = name == "diabetes"
    return Raw(
        x=np.asarray(bunch.images if name == "digits" else bunch.data, dtype=np.float64),
        y=np.asarray(bunch.target, dtype=np.float64 if is_regression else np.int64),
        classes=None if is_regression else tuple(range(len(bunch.target_names))),
        x_test=None,
        y_test=None,
        name=name,
        kind="regression" if is_regression else "classification",
        input_range=16.0 if name == "digits" else None,
        origin=f"{name} from scikit-learn",
    )
