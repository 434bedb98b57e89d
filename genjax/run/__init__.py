"""Running experiments and keeping what they produce."""

from genjax.run.datasets import inductive_bias_dataset
from genjax.run.results import load_results, open_run, provenance, require_no_run, save_figure, save_results, to_json

__all__ = [
    "inductive_bias_dataset",
    "load_results",
    "open_run",
    "provenance",
    "require_no_run",
    "save_figure",
    "save_results",
    "to_json",
]
