"""Running experiments and keeping what they produce."""

from genjax.run.results import load_results, open_run, provenance, save_figure, save_results, to_json

__all__ = ["load_results", "open_run", "provenance", "save_figure", "save_results", "to_json"]
