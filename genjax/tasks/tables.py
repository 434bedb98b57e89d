"""Readers for a user's own data: CSV tables and ``.npz`` files."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

from genjax.errors import check_choice
from genjax.tasks.files import SPLIT_KEYS, read_npz
from genjax.tasks.sources import Raw

TABLE_SUFFIXES = (".npz", ".csv")


def read_table(path: str | Path, target: str | int | None = None, *, kind: str | None = None) -> Raw:
    """Read inputs and targets from a CSV table or an ``.npz`` file.

    An ``.npz`` holds ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test`` and ``y_test``. A CSV holds one example
    a line, cells separated by commas; its first line is a header when none of its cells is a number, when its target
    cell is the only one in a column of numbers that is not one, or when ``target`` is a name.

    Args:
      path: the file, ending in ``.npz`` or ``.csv``.
      target: for CSV, the target column by header name or by index (negative counts from the end); None means the last.
      kind: ``"classification"`` or ``"regression"``. None decides by the target: all text or all whole numbers are
        labels (in ``.npz``: text, boolean or integer dtype), anything else is regression. Say ``"regression"`` when a
        real target happens to be whole, such as a count.

    Returns:
      The raw data; labels are sorted and numbered from 0, their originals are in ``classes``.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a wrong suffix, unknown column, ragged line, a feature that is not a finite number (with its line and
        column), or arrays of the wrong shape.
    """
    path = Path(path)
    if path.suffix not in TABLE_SUFFIXES:
        raise ValueError(f"`path` must end in {' or '.join(TABLE_SUFFIXES)}, but {str(path)!r} came")
    if kind is not None:
        check_choice("kind", kind, ("classification", "regression"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".csv":
        x, y = _read_csv(path, target, kind)
        return _make_raw(path, x, y, None, None, kind)
    if target is not None:
        raise ValueError(f"`target` picks a column of a CSV table; {path} is not one, so it must be None")
    arrays = read_npz(path, SPLIT_KEYS, ("x", "y"))
    x, y = _check_arrays(path, arrays, *(("x", "y") if "x" in arrays else SPLIT_KEYS[:2]))
    if "x" in arrays:
        return _make_raw(path, x, y, None, None, kind)
    x_test, y_test = _check_arrays(path, arrays, *SPLIT_KEYS[2:])
    if x_test.shape[1:] != x.shape[1:] or y_test.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"{path}: expected test data shaped as the training data {x.shape[1:]}, {y.shape[1:]}, "
            f"but {x_test.shape[1:]}, {y_test.shape[1:]} came"
        )
    return _make_raw(path, x, y, x_test, y_test, kind)


def _check_arrays(path: Path, arrays: dict[str, np.ndarray], x_name: str, y_name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = arrays[x_name], arrays[y_name]
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if x.ndim < 2 or not x.size or y.ndim not in (1, 2) or len(x) != len(y):
        raise ValueError(
            f"{path}: expected {x_name} of shape [n, ...] and {y_name} of shape [n] or [n, k], "
            f"but {x.shape} and {y.shape} came"
        )
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected {x_name} of real numbers, but its dtype is {x.dtype}")
    x = x.astype(np.float64)
    for name, array in ((x_name, x), (y_name, y)):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: expected finite numbers, but {name} holds NaN or infinity")
    return x, y


def _make_raw(
    path: Path, x: np.ndarray, y: np.ndarray, x_test: np.ndarray | None, y_test: np.ndarray | None, kind: str | None
) -> Raw:
    is_label = y.dtype.kind in "biuUS"
    kind = kind or ("classification" if is_label else "regression")
    origin = f"the user's {path.name}"
    if kind == "regression":
        if y.dtype.kind not in "biuf":
            raise ValueError(f"{path}: expected numeric targets for regression, but their dtype is {y.dtype}")
        y_test = None if y_test is None else y_test.astype(np.float64)
        return Raw(x, y.astype(np.float64), None, x_test, y_test, path.stem, kind, origin=origin)
    if not is_label and not (y == np.round(y)).all():
        raise ValueError(f"{path}: expected text or whole numbers as labels, but real numbers came")
    if y.ndim != 1:
        raise ValueError(
            f"{path}: expected labels of shape [n], but shape {y.shape} came; "
            "give the label's number, or floating-point targets for regression"
        )
    everything = y if y_test is None else np.concatenate([y, y_test])
    if not is_label:
        everything = everything.astype(np.int64)
    originals, labels = np.unique(everything, return_inverse=True)
    labels = labels.astype(np.int64)
    label_test = None if y_test is None else labels[len(y) :]
    return Raw(x, labels[: len(y)], tuple(originals.tolist()), x_test, label_test, path.stem, kind, origin=origin)


def _read_csv(path: Path, target: str | int | None, kind: str | None) -> tuple[np.ndarray, np.ndarray]:
    lines, rows = _read_rows(path)
    column = _find_target(path, rows[0], target)
    targets = [row.pop(column) for row in rows]
    numbers = [_number(cell) for cell in targets]
    has_header = (
        isinstance(target, str)
        or all(_number(cell) is None for cell in (*rows[0], targets[0]))
        or (numbers[0] is None and len(numbers) > 1 and None not in numbers[1:])
    )
    if has_header:
        lines, rows, targets, numbers = lines[1:], rows[1:], targets[1:], numbers[1:]
    if not rows:
        raise ValueError(f"{path}: expected at least one line of numbers after the header, but none came")
    x = np.array(
        [
            [_finite(path, line, i + (i >= column), cell) for i, cell in enumerate(row)]
            for line, row in zip(lines, rows, strict=True)
        ]
    )
    # A column that mixes numbers and text is more often one with missing values than one of labels, so it must be asked
    # for; otherwise it is read as numbers, which points at the first cell that is none.
    all_text = all(number is None for number in numbers)
    if (kind == "classification" and None in numbers) or (kind is None and all_text):
        if "" in targets:
            line = lines[targets.index("")]
            raise ValueError(f"{path}, line {line}, column {column + 1}: expected a label, but the cell is empty")
        return x, np.array(targets)
    y = np.array([_finite(path, line, column, cell) for line, cell in zip(lines, targets, strict=True)])
    # Beyond 2^53 a float no longer tells neighboring whole numbers apart, so such a column is not one of labels.
    is_whole = bool((y == np.round(y)).all() and (abs(y) < 2**53).all())
    return x, y.astype(np.int64) if is_whole else y


def _read_rows(path: Path) -> tuple[list[int], list[list[str]]]:
    lines, rows = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    lines.append(reader.line_num)
                    rows.append(cells)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV table in UTF-8, but it cannot be read: {error}") from error
    if not rows:
        raise ValueError(f"{path}: expected a CSV table, but the file is empty")
    width = len(rows[0])
    if width < 2:
        raise ValueError(f"{path}: expected at least two columns separated by commas, but {width} came")
    for line, cells in zip(lines, rows, strict=True):
        if len(cells) != width:
            raise ValueError(f"{path}, line {line}: expected {width} cells, but {len(cells)} came")
    return lines, rows


def _find_target(path: Path, first_row: list[str], target: Any) -> int:
    width = len(first_row)
    if target is None:
        return width - 1
    if isinstance(target, str):
        if first_row.count(target) != 1:
            raise ValueError(
                f"`target` must name exactly one column of {path}, but {target!r} came; "
                f"its first line is {', '.join(first_row)}"
            )
        return first_row.index(target)
    if isinstance(target, bool) or not isinstance(target, int) or not -width <= target < width:
        raise ValueError(f"`target` must be a column name or an index in {-width} .. {width - 1}, but {target!r} came")
    return target % width


def _number(cell: str) -> float | None:
    # Python reads 1_000 as a number; no CSV writer means that.
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _finite(path: Path, line: int, column: int, cell: str) -> float:
    number = _number(cell)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{path}, line {line}, column {column + 1}: expected a finite number, but {cell!r} came")
    return number
