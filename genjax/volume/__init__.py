"""Volumes of hypothesis spaces: how much inductive bias, beyond the data, a task requires."""

from genjax.volume.datasets import inductive_bias_dataset
from genjax.volume.gaussian import (
    ErrorLaw,
    GaussianPosterior,
    GramBlocks,
    gaussian_posterior,
    squared_error_law,
)
from genjax.volume.generalized_chi2 import (
    LogProb,
    generalized_chi2_logcdf,
    generalized_chi2_logpdf,
    generalized_chi2_logsf,
)
from genjax.volume.inductive_bias import InductiveBias, gaussian_inductive_bias
from genjax.volume.lanczos import lanczos_error_law

__all__ = [
    "ErrorLaw",
    "GaussianPosterior",
    "GramBlocks",
    "InductiveBias",
    "LogProb",
    "gaussian_inductive_bias",
    "gaussian_posterior",
    "generalized_chi2_logcdf",
    "generalized_chi2_logpdf",
    "generalized_chi2_logsf",
    "inductive_bias_dataset",
    "lanczos_error_law",
    "squared_error_law",
]
