"""How an experiment of the ensemble engine ends: what it writes into its run directory and says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray

from genjax.run import open_run, save_figure, save_results, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def conclude(
    name: str, out: Path, config: Any, dataset: xarray.Dataset, golden: Mapping[str, Any], table: str, figure: Figure
) -> None:
    """Write ``results.nc``, ``golden.json`` and the figure; print the task, the table and where they are.

    Args:
      name: of the figure's file.
      out: run directory; files of an earlier run are replaced.
      config: of the experiment.
      dataset: its result; the attribute ``task`` says where the data come from.
      golden: the numbers its tests look at.
      table: readable result.
      figure: the picture.
    """
    directory = open_run(out, config, overwrite=True)
    save_results(directory, dataset)
    (directory / "golden.json").write_text(json.dumps(to_json(golden), indent=1) + "\n")
    picture = save_figure(directory, name, figure)
    print(f"\n{dataset.attrs['task']}\n\n{table}")
    print(f"\nfigure:  {picture}\nresults: {directory / 'results.nc'}")
