"""Volumes of hypothesis spaces: how much inductive bias, beyond the data, a task requires."""

from genjax.volume.basin import RadialVolume, radial_log_volume
from genjax.volume.binomial import bias_of_proportion, clopper_pearson, log_proportion
from genjax.volume.boolean import BooleanHistogram, boolean_function_histogram
from genjax.volume.curve import BiasCurve, EventCurve, Particles
from genjax.volume.datasets import bias_curve_dataset, inductive_bias_dataset
from genjax.volume.error_functions import ErrorFunction, error_function
from genjax.volume.evidence import (
    gp_log_evidence,
    gp_predictive_log_evidence,
    sign_log_evidence,
    sign_predictive_log_evidence,
)
from genjax.volume.gaussian import ErrorLaw, GaussianPosterior, GramBlocks, gaussian_posterior, squared_error_law
from genjax.volume.gaussian_bias import InductiveBias, gaussian_inductive_bias
from genjax.volume.generalized_chi2 import (
    LogProb,
    generalized_chi2_logcdf,
    generalized_chi2_logpdf,
    generalized_chi2_logsf,
)
from genjax.volume.guess_and_check import GuessAndCheck
from genjax.volume.kernel_report import gram_blocks, kernel_dataset, kernel_table
from genjax.volume.lanczos import lanczos_error_law
from genjax.volume.llc import LLC, IntegratedLLC, llc_by_thermodynamic_integration, local_learning_coefficient
from genjax.volume.llc_curve import CurveLLC, llc_from_curve
from genjax.volume.local_volume import LocalVolume, local_log_volume
from genjax.volume.nested import Nested
from genjax.volume.simulation import inductive_bias, log_probability
from genjax.volume.spaces import (
    HypothesisSpace,
    TrainedSpace,
    fan_in_scale,
    gaussian_process_space,
    linearized_space,
    log_prior_space,
    posterior_space,
    trained_space,
    weight_space,
)
from genjax.volume.trained import Trained
from genjax.volume.universality import RegretBound, regret_bound, truth_log_weight
from genjax.volume.walk import Splitting, Tempered

__all__ = [
    "LLC",
    "BiasCurve",
    "BooleanHistogram",
    "CurveLLC",
    "ErrorFunction",
    "ErrorLaw",
    "EventCurve",
    "GaussianPosterior",
    "GramBlocks",
    "GuessAndCheck",
    "HypothesisSpace",
    "InductiveBias",
    "IntegratedLLC",
    "LocalVolume",
    "LogProb",
    "Nested",
    "Particles",
    "RadialVolume",
    "RegretBound",
    "Splitting",
    "Tempered",
    "Trained",
    "TrainedSpace",
    "bias_curve_dataset",
    "bias_of_proportion",
    "boolean_function_histogram",
    "clopper_pearson",
    "error_function",
    "fan_in_scale",
    "gaussian_inductive_bias",
    "gaussian_posterior",
    "gaussian_process_space",
    "generalized_chi2_logcdf",
    "generalized_chi2_logpdf",
    "generalized_chi2_logsf",
    "gp_log_evidence",
    "gp_predictive_log_evidence",
    "gram_blocks",
    "inductive_bias",
    "inductive_bias_dataset",
    "kernel_dataset",
    "kernel_table",
    "lanczos_error_law",
    "linearized_space",
    "llc_by_thermodynamic_integration",
    "llc_from_curve",
    "local_learning_coefficient",
    "local_log_volume",
    "log_prior_space",
    "log_probability",
    "log_proportion",
    "posterior_space",
    "radial_log_volume",
    "regret_bound",
    "sign_log_evidence",
    "sign_predictive_log_evidence",
    "squared_error_law",
    "trained_space",
    "truth_log_weight",
    "weight_space",
]
