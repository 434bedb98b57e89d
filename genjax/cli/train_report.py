"""What ``genjax train`` says of its results: a table, a sentence, JSON, figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

METRICS = ("train_loss", "test_loss", "train_error", "test_error")


def report(dataset: xarray.Dataset, task: str, directory: Path | None, *, as_json: bool) -> None:
    """Print results, and draw them into the run directory.

    Args:
      dataset: of the ensemble, over two hyper-parameters and ``seed``.
      task: provenance of the data.
      directory: the run; None: nothing is drawn.
      as_json: whether to print JSON instead of the table.

    Returns:
      None.
    """
    dims = [str(dim) for dim in dataset["status"].dims if dim != "seed"]
    settings = summarize(dataset, dims)
    files: dict[str, Path] = {}
    if directory is not None:
        files = {"results": directory / "results.nc", "metrics": directory / "metrics.jsonl"}
        files |= _draw(dataset, dims, directory)
    if as_json:
        from genjax.run import to_json

        print(json.dumps(to_json({"task": task, "settings": settings, "files": files}), indent=2))
        return
    print(f"{task}\n\n{_table(settings, dims)}\n\n{_sentence(settings, dims)}")
    for what, path in files.items():
        print(f"{what + ':':<17}{path}")


def summarize(dataset: xarray.Dataset, dims: list[str]) -> list[dict[str, Any]]:
    """Statistics over the seeds of each setting, at the end of training.

    Args:
      dataset: of the ensemble.
      dims: its hyper-parameters.

    Returns:
      One mapping a setting: its hyper-parameters; ``mean`` and ``sd`` (of the sample; None for fewer than two members)
      of each metric over the members that did not diverge; how many ``members`` it has, how many of them ``fitted``
      (training error 0, or stopped by a threshold on training error or loss) and ``diverged``.
    """
    from genjax.run import MemberStatus

    metrics = [metric for metric in METRICS if metric in dataset]
    final = dataset.isel(step=-1)
    settings = []
    for index in np.ndindex(*(dataset.sizes[dim] for dim in dims)):
        members = final.isel(dict(zip(dims, index, strict=True)))
        values = {metric: members[metric].values.astype(float) for metric in metrics}
        sound = np.all([np.isfinite(v) for v in values.values()], axis=0)
        fitted = np.isin(members["status"].values, (MemberStatus.FITTED, MemberStatus.LOSS_REACHED))
        if "train_error" in values:
            fitted |= values["train_error"] == 0
        settings.append(
            {dim: float(members[dim]) for dim in dims}
            | {metric: _moments(v[sound]) for metric, v in values.items()}
            | {"members": sound.size, "fitted": int((fitted & sound).sum()), "diverged": int((~sound).sum())}
        )
    return settings


def _moments(values: np.ndarray) -> dict[str, float | None]:
    return {
        "mean": float(values.mean()) if values.size else None,
        "sd": float(values.std(ddof=1)) if values.size > 1 else None,
    }


def _table(settings: list[dict[str, Any]], dims: list[str]) -> str:
    metrics = [metric for metric in METRICS if metric in settings[0]]

    def row(setting: dict[str, Any]) -> list[str]:
        counts = [f"{setting[name]}/{setting['members']}" for name in ("fitted", "diverged")]
        return [f"{setting[dim]:g}" for dim in dims] + [_plus_minus(setting[metric]) for metric in metrics] + counts

    rows = [[name.replace("_", " ") for name in (*dims, *metrics, "fitted", "diverged")], *map(row, settings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows]
    caption = "end of training, mean +- standard deviation over the seeds that did not diverge"
    return "\n".join([caption, *lines])


def _plus_minus(moments: dict[str, float | None]) -> str:
    mean, sd = moments["mean"], moments["sd"]
    if mean is None:
        return "-"
    return f"{mean:.4g}" if sd is None else f"{mean:.4g} +- {sd:.2g}"


def _sentence(settings: list[dict[str, Any]], dims: list[str]) -> str:
    members, fitted, diverged = (sum(s[name] for s in settings) for name in ("members", "fitted", "diverged"))
    if diverged == members:
        return f"All {members} members diverged: a smaller learning rate may help."
    metric = _headline(settings[0])
    best = min((s for s in settings if s[metric]["mean"] is not None), key=lambda s: s[metric]["mean"])
    where = ", ".join(f"{dim.replace('_', ' ')} {best[dim]:g}" for dim in dims)
    smallest = f"smallest at {where}" if len(settings) > 1 else "that of the only setting"
    return (
        f"The mean {metric.replace('_', ' ')} {_plus_minus(best[metric])} is {smallest}; of {members} members, "
        f"{fitted} fitted the training data and {diverged} diverged."
    )


def _headline(metrics: Any) -> str:
    """The metric that counts: the test error where there is one."""
    return "test_error" if "test_error" in metrics else "test_loss"


def _draw(dataset: xarray.Dataset, dims: list[str], directory: Path) -> dict[str, Path]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from genjax.plot import member_spread, phase_diagram, training_curves
    from genjax.run import save_figure

    metrics = ("train_loss", _headline(dataset))
    figures = {
        "training_curves": _panels(dataset, dims, metrics, training_curves),
        "member_spread": _panels(dataset, dims, metrics, member_spread),
    }
    if all(dataset.sizes[dim] > 1 for dim in dims):
        x, y = dims
        figures["phase_diagram"] = phase_diagram(dataset, metrics[-1], x=x, y=y).figure  # type: ignore[assignment]
    files = {name: save_figure(directory, name, figure) for name, figure in figures.items()}
    for figure in figures.values():
        plt.close(figure)
    return files


def _panels(dataset: xarray.Dataset, dims: list[str], metrics: tuple[str, ...], draw: Callable[..., Any]) -> Figure:
    """A row for each metric; a column for each value of the hyper-parameter that ``draw`` does not show itself."""
    import matplotlib.pyplot as plt

    shown = next((dim for dim in dims if dataset.sizes[dim] > 1), dims[0])
    (across,) = (dim for dim in dims if dim != shown)
    columns = dataset.sizes[across]
    figure, axes = plt.subplots(
        len(metrics),
        columns,
        figsize=(5 * columns, 3.6 * len(metrics)),
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for column in range(columns):
        part = dataset.isel({across: column})
        for ax, metric in zip(axes[:, column], metrics, strict=True):
            draw(part, metric, ax)
            if column:
                ax.set_ylabel("")
        axes[0, column].set_title(f"{across.replace('_', ' ')} {float(part[across]):g}", fontsize="medium")
    return figure
