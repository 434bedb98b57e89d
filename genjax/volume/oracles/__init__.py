"""Exact answers: log probabilities and inductive biases known in closed form, to test estimators against.

Everything here runs on the host in float64 NumPy, whatever JAX's precision, in log space and in nats, and takes arrays
where that is natural. Every sum has terms of one sign, so nothing cancels however rare the event.

=====================================  ==================================================================
case                                   functions
=====================================  ==================================================================
Gaussian mass of a ball, an ellipsoid  ball_log_prob, noncentral_chi2_logcdf, ellipsoid_log_prob
quadratic and singular basins          quadratic_basin_log_volume, normal_crossing_log_prob, monomial_log_prob
perceptrons                            spherical_cap_log_prob, cover_log_separable, random_perceptron_log_prior
succession perceptron, orthants        succession_log_fit, succession_inductive_bias
teacher-student perceptron, replicas   teacher_student
all nets of a small family             binary_network (and its functions), binary_perceptron_distances
reference numbers                      sgld_llc, DIGITS_RBF_NATS
=====================================  ==================================================================
"""

from genjax.volume.oracles.enumeration import (
    BinaryNetwork,
    binary_network,
    binary_network_inductive_bias,
    binary_network_log_fit,
    binary_perceptron_distances,
)
from genjax.volume.oracles.perceptron import (
    cover_log_separable,
    random_perceptron_log_prior,
    spherical_cap_log_prob,
    succession_inductive_bias,
    succession_log_fit,
)
from genjax.volume.oracles.references import (
    DIGITS_RBF_ERROR_OF_MEAN,
    DIGITS_RBF_EXPECTED_ERROR,
    DIGITS_RBF_NATS,
    DIGITS_RBF_TASK,
    sgld_llc,
)
from genjax.volume.oracles.replica import TeacherStudent, teacher_student
from genjax.volume.oracles.volumes import (
    ball_log_prob,
    ellipsoid_log_prob,
    monomial_log_prob,
    noncentral_chi2_logcdf,
    normal_crossing_log_prob,
    quadratic_basin_log_volume,
)

__all__ = [
    "DIGITS_RBF_ERROR_OF_MEAN",
    "DIGITS_RBF_EXPECTED_ERROR",
    "DIGITS_RBF_NATS",
    "DIGITS_RBF_TASK",
    "BinaryNetwork",
    "TeacherStudent",
    "ball_log_prob",
    "binary_network",
    "binary_network_inductive_bias",
    "binary_network_log_fit",
    "binary_perceptron_distances",
    "cover_log_separable",
    "ellipsoid_log_prob",
    "monomial_log_prob",
    "noncentral_chi2_logcdf",
    "normal_crossing_log_prob",
    "quadratic_basin_log_volume",
    "random_perceptron_log_prior",
    "sgld_llc",
    "spherical_cap_log_prob",
    "succession_inductive_bias",
    "succession_log_fit",
    "teacher_student",
]
