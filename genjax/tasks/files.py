"""Readers for image data sets that lie on disk: IDX files (MNIST, Fashion-MNIST), CIFAR-10 batches and ``.npz``."""

from __future__ import annotations

import gzip
import io
import math
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from genjax.errors import check_choice
from genjax.tasks.sources import Raw

IMAGE_SETS = ("mnist", "fashion_mnist", "cifar10")
SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_SUBFOLDERS = {
    "mnist": ("MNIST/raw",),
    "fashion_mnist": ("FashionMNIST/raw",),
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
}
_N_CLASSES = 10
_CIFAR_PIXELS = 3 * 32 * 32

_Pair = tuple[np.ndarray, np.ndarray]


def read_idx(path: str | Path) -> np.ndarray:
    """Read one IDX file, plain or gzipped.

    The format: two zero bytes, a type code, the number of axes, each length as a big-endian 32-bit integer, the values
    in row-major order.

    Args:
      path: the file; gzip is recognized by its content.

    Returns:
      The array in native byte order: uint8, int8, int16, int32, float32 or float64.

    Raises:
      FileNotFoundError: no such file.
      ValueError: wrong magic number, unknown type code, or a size other than the header announces.

    References:
      LeCun, Cortes and Burges, The MNIST database of handwritten digits, "file formats".
    """
    content = _read_bytes(path)
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise ValueError(
            f"{path}: expected an IDX magic number (two zero bytes, then a type code among "
            f"{', '.join(f'0x{code:02X}' for code in _IDX_DTYPES)}), but the file starts with {content[:4].hex(' ')!r}"
        )
    dtype, n_axes = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * n_axes
    if len(content) < start:
        raise ValueError(f"{path}: expected a header of {start} bytes for {n_axes} axes, but {len(content)} bytes came")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", n_axes, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(f"{path}: expected {expected} bytes for shape {shape}, but {len(content)} bytes came")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _read_bytes(path: str | Path) -> bytes:
    content = Path(path).read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a complete gzip file, but it is damaged: {error}") from error


def read_npz(path: str | Path, *alternatives: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read named arrays from an ``.npz`` file; pickled objects are refused.

    Args:
      path: the file.
      *alternatives: groups of array names; the first group that is complete in the file is read.

    Returns:
      The arrays of that group by name.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is not a sound ``.npz``, or holds none of the groups.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            present = [name.removesuffix(".npy") for name in archive.namelist()]
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for names in alternatives:
                if set(names) <= set(present):
                    return {name: arrays[name] for name in names}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: expected an .npz file of plain arrays, but it cannot be read: {error}") from error
    wanted = " or ".join(", ".join(names) for names in alternatives)
    raise ValueError(f"{path}: expected the arrays {wanted}, but it holds {', '.join(present) or 'none'}")


def read_cifar_batch(path: str | Path) -> _Pair:
    """Read one CIFAR-10 batch, in the Python (pickle) or the binary form.

    The pickle is rebuilt by a reader that knows plain containers and numeric arrays only: a file that names any other
    class or function is refused, so it cannot run code.

    Args:
      path: the file; the suffix ``.bin`` means the binary form.

    Returns:
      Images ``uint8[n, 32, 32, 3]`` and labels ``int64[n]``.

    Raises:
      FileNotFoundError: no such file.
      ValueError: damaged, or not a CIFAR-10 batch.

    References:
      Krizhevsky (2009), Learning multiple layers of features from tiny images; the CIFAR-10 page's "dataset layout".
    """
    content = Path(path).read_bytes()
    if Path(path).suffix == ".bin":
        record = 1 + _CIFAR_PIXELS
        if not content or len(content) % record:
            raise ValueError(f"{path}: expected a whole number of {record}-byte records, but {len(content)} bytes came")
        records = np.frombuffer(content, np.uint8).reshape(-1, record)
        labels, pixels = records[:, 0], records[:, 1:]
    else:
        labels, pixels = _unpickle_batch(path, content)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return _check_images(path, images, labels)


def _unpickle_batch(path: str | Path, content: bytes) -> _Pair:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    # A damaged pickle can raise almost anything; whatever it is, the file is what is wrong.
    except Exception as error:
        raise ValueError(f"{path}: expected a pickled CIFAR-10 batch, but it cannot be read: {error}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: expected a pickled dictionary, but {type(batch).__name__} came")
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    if not {"data", "labels"} <= set(entries):
        raise ValueError(f"{path}: expected the entries data and labels, but {', '.join(map(str, entries))} came")
    try:
        pixels, labels = _plain_array(entries["data"]), _plain_array(entries["labels"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected numeric arrays, but they cannot be rebuilt: {error}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _CIFAR_PIXELS:
        raise ValueError(
            f"{path}: expected data of uint8[n, {_CIFAR_PIXELS}], but {pixels.dtype} of shape {pixels.shape} came"
        )
    return labels, pixels


class _PickledDtype:
    """A numeric dtype named in a pickle; anything but plain integers and floats is refused."""

    def __init__(self, code: Any, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if code not in {"u1", "i1", "i2", "i4", "i8", "f4", "f8"}:
            raise pickle.UnpicklingError(f"the dtype {code!r} is not allowed")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.dtype = self.dtype.newbyteorder(order)


class _PickledArray:
    """An array's parts as a pickle holds them. NumPy's own __setstate__ trusts them more than a stranger deserves."""

    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.dtype: np.dtype = np.dtype("u1")
        self.is_fortran, self.buffer = False, b""

    def __setstate__(self, state: tuple) -> None:
        _, self.shape, pickled, self.is_fortran, self.buffer = state
        self.dtype = pickled.dtype


def _from_buffer(buffer: Any, pickled: _PickledDtype, shape: tuple, order: str) -> _PickledArray:
    array = _PickledArray()
    array.__setstate__((1, shape, pickled, order == "F", bytes(buffer)))
    return array


def _encode_latin1(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    _allowed: ClassVar[dict[str, Any]] = {
        "numpy.ndarray": "ndarray",
        "numpy.dtype": _PickledDtype,
        "numpy.core.multiarray._reconstruct": _PickledArray,
        "numpy._core.multiarray._reconstruct": _PickledArray,
        "numpy.core.numeric._frombuffer": _from_buffer,
        "numpy._core.numeric._frombuffer": _from_buffer,
        "_codecs.encode": _encode_latin1,
    }

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._allowed:
            raise pickle.UnpicklingError(f"it names {full_name}, which is not allowed")
        return self._allowed[full_name]


def _plain_array(value: Any) -> np.ndarray:
    if isinstance(value, _PickledArray):
        return np.frombuffer(value.buffer, value.dtype).reshape(value.shape, order="F" if value.is_fortran else "C")
    return np.asarray(value)


def _check_images(path: str | Path, images: np.ndarray, labels: np.ndarray) -> _Pair:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"{path}: expected images of uint8[n, h, w] or uint8[n, h, w, 3], "
            f"but {images.dtype} of shape {images.shape} came"
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{path}: expected {len(images)} integer labels, but {labels.dtype} of shape {labels.shape} came"
        )
    if labels.min() < 0 or labels.max() >= _N_CLASSES:
        raise ValueError(
            f"{path}: expected labels 0 .. {_N_CLASSES - 1}, but they range from {labels.min()} to {labels.max()}"
        )
    return images, labels.astype(np.int64)


class _Layout(NamedTuple):
    """One way a source may lie in a folder: per file the spellings of its name, and how to read them all."""

    files: tuple[tuple[str, ...], ...]
    read: Callable[[list[Path]], tuple[_Pair, _Pair]]


def _idx_spellings(part: str, n_axes: int) -> tuple[str, ...]:
    plain = (f"{part}-idx{n_axes}-ubyte", f"{part}.idx{n_axes}-ubyte")
    return (*plain, *(f"{name}.gz" for name in plain))


def _read_mnist(paths: list[Path]) -> tuple[_Pair, _Pair]:
    x, y, x_test, y_test = map(read_idx, paths)
    return _check_images(paths[0], x, y), _check_images(paths[2], x_test, y_test)


def _read_cifar(paths: list[Path]) -> tuple[_Pair, _Pair]:
    *train, test = map(read_cifar_batch, paths)
    return (np.concatenate([x for x, _ in train]), np.concatenate([y for _, y in train])), test


def _read_split_npz(paths: list[Path]) -> tuple[_Pair, _Pair]:
    arrays = read_npz(paths[0], SPLIT_KEYS)
    x, y, x_test, y_test = (arrays[key] for key in SPLIT_KEYS)
    return _check_images(paths[0], x, y), _check_images(paths[0], x_test, y_test)


def _layouts(name: str) -> tuple[_Layout, ...]:
    npz = _Layout(((f"{name}.npz",),), _read_split_npz)
    if name == "cifar10":
        batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        pickled = _Layout(tuple((batch,) for batch in batches), _read_cifar)
        binary = _Layout(tuple((f"{batch}.bin",) for batch in batches), _read_cifar)
        return pickled, binary, npz
    parts = ("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1)
    return _Layout(tuple(_idx_spellings(*part) for part in parts), _read_mnist), npz


def load_image_set(name: str, data_dir: str | Path | None = None) -> Raw:
    """Read MNIST, Fashion-MNIST or CIFAR-10 from local files.

    Folders are tried from the most to the least specific: ``data_dir/<name>``, the sub-folders in which the sets are
    customarily unpacked, ``data_dir`` itself last. MNIST and Fashion-MNIST files bear the same names, so when both are
    there keep each in its own folder.

    Args:
      name: ``"mnist"``, ``"fashion_mnist"`` or ``"cifar10"``.
      data_dir: where to look; None means the environment variable ``GENJAX_DATA``, or ``data`` when that is not set.

    Returns:
      The raw data with the source's own test split; images ``uint8[n, h, w]`` or ``uint8[n, h, w, 3]``.

    Raises:
      FileNotFoundError: a file is missing; the message says which, where it was looked for and where to put it.
      ValueError: an unknown name, or a damaged file.
    """
    check_choice("name", name, IMAGE_SETS)
    root = Path(os.environ.get("GENJAX_DATA") or "data") if data_dir is None else Path(data_dir)
    folders = [base / sub for base in (root / name, root) for sub in (*_SUBFOLDERS[name], "")]
    # The layout that is nearest to complete tells the reader most about what is missing.
    best: tuple[int, list[str]] | None = None
    for folder in folders:
        for layout in _layouts(name):
            found = [_first_file(folder, spellings) for spellings in layout.files]
            if None not in found:
                (x, y), (x_test, y_test) = layout.read([path for path in found if path])
                if x_test.shape[1:] != x.shape[1:]:
                    raise ValueError(
                        f"{folder}: expected test images of shape {x.shape[1:]}, but {x_test.shape[1:]} came"
                    )
                classes = tuple(range(_N_CLASSES))
                return Raw(x, y, classes, x_test, y_test, name, "classification", 255.0, f"{name} from local files")
            missing = [spellings[0] for spellings, path in zip(layout.files, found, strict=True) if path is None]
            n_found = len(found) - len(missing)
            if best is None or n_found > best[0]:
                best = n_found, missing
    raise FileNotFoundError(_describe_missing(name, best[1] if best else [], folders))


def _first_file(folder: Path, spellings: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in spellings if (folder / name).is_file()), None)


def _describe_missing(name: str, missing: list[str], folders: list[Path]) -> str:
    choices = "; or ".join(", ".join(spellings[0] for spellings in layout.files) for layout in _layouts(name))
    gz = "" if name == "cifar10" else " (IDX files may end in .gz)"
    return (
        f"{name}: {', '.join(missing)} missing. Looked in {', '.join(map(str, folders))}. "
        f"Put {choices}{gz} into {folders[-1] / name}, or give another folder by `data_dir` or the environment "
        "variable GENJAX_DATA."
    )
