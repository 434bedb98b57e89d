"""Run directories: what was asked (``config.json``), where it ran (``meta.json``), what came out (``results.nc``).

``results.nc`` is netCDF4 of a labelled :class:`xarray.Dataset`; attributes hold the config and the units, so the file
explains itself without the directory.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import genjax

if TYPE_CHECKING:
    import matplotlib.figure
    import xarray


def open_run(directory: str | Path, config: Any, *, overwrite: bool = False) -> Path:
    """Create a run directory and write ``config.json`` and ``meta.json`` into it.

    Args:
      directory: where; parents are created.
      config: a dataclass or a mapping of JSON values.
      overwrite: whether a directory that already holds a run may be reused; its files are replaced one by one.

    Returns:
      The directory.

    Raises:
      FileExistsError: it already holds a run and ``overwrite`` is false.
    """
    directory = Path(directory)
    if not overwrite:
        require_no_run(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", config)
    write_json(directory / "meta.json", provenance())
    return directory


def require_no_run(directory: str | Path) -> None:
    """Refuse a directory that holds a run, before hours of work rather than after.

    Args:
      directory: where a run is to be written; it need not exist.

    Returns:
      None.

    Raises:
      FileExistsError: it already holds a run.
    """
    if (Path(directory) / "config.json").exists():
        raise FileExistsError(f"{directory} already holds a run; choose another directory")


def save_results(directory: Path, dataset: xarray.Dataset) -> Path:
    """Write ``results.nc`` atomically: an interrupted write leaves no half file under that name.

    Args:
      directory: a run directory made by :func:`open_run`.
      dataset: named axes; attributes other than strings and numbers are stored as JSON.

    Returns:
      Path of the file.
    """
    path = directory / "results.nc"
    partial = directory / "results.nc.partial"
    dataset.assign_attrs(encode_attributes(dataset.attrs)).to_netcdf(partial, engine="h5netcdf")
    partial.replace(path)
    return path


def encode_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as netCDF can hold them.

    Args:
      attributes: by name.

    Returns:
      Strings and numbers as they are, everything else (booleans too, which netCDF lacks) as JSON.
    """
    return {
        name: value
        if isinstance(value, str | int | float | np.number) and not isinstance(value, bool)
        else json.dumps(to_json(value))
        for name, value in attributes.items()
    }


def load_results(directory: str | Path) -> xarray.Dataset:
    """Read a run's ``results.nc`` into memory.

    Args:
      directory: the run directory.

    Returns:
      The dataset as it was saved.

    Raises:
      FileNotFoundError: there is none.
    """
    import xarray

    path = Path(directory) / "results.nc"
    if not path.exists():
        raise FileNotFoundError(f"`directory` {directory} holds no results.nc")
    return xarray.load_dataset(path, engine="h5netcdf")


def save_figure(directory: Path, name: str, figure: matplotlib.figure.Figure) -> Path:
    """Write a figure as ``name.png`` and ``name.pdf``.

    Args:
      directory: a run directory.
      name: file name without suffix.
      figure: what to draw.

    Returns:
      Path of the PNG.
    """
    for suffix in (".pdf", ".png"):
        figure.savefig(directory / f"{name}{suffix}", bbox_inches="tight", dpi=150)
    return directory / f"{name}.png"


def provenance() -> dict[str, Any]:
    """Everything about the machine and the code that a number may depend on.

    Returns:
      JSON values: versions, devices, precision, command line, git commit (``None`` outside a checkout), UTC time.
    """
    return {
        "genjax": genjax.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in jax.devices()],
        "x64": bool(jax.config.read("jax_enable_x64")),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": _git_commit(),
        "time_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def to_json(value: Any) -> Any:
    """Reduce dataclasses, arrays and paths to JSON values.

    Args:
      value: dataclass, mapping, sequence, array, path, function (by name) or scalar.

    Returns:
      Nested dicts, lists, strings, numbers, booleans, None. Non-finite numbers become the strings ``"inf"``, ``"-inf"``
      and ``"nan"``, which JSON lacks.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return to_json(value.tolist())
    if callable(value):
        return getattr(value, "__qualname__", repr(value))
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON atomically.

    Args:
      path: where.
      value: anything :func:`to_json` takes.

    Returns:
      None.
    """
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(to_json(value), indent=2) + "\n")
    partial.replace(path)


@functools.cache
def _git_commit() -> str | None:
    """Commit of the checkout genjax runs from; None when it is installed, even inside somebody else's checkout."""
    package = Path(genjax.__file__).parent
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--show-prefix", "HEAD"], cwd=package, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    prefix, _, commit = done.stdout.strip().partition("\n")
    return commit if prefix.rstrip("/") == package.name and commit else None
