"""The digits task of ``oracles.DIGITS_RBF_TASK`` solved in plain NumPy, by none of the library's code."""

import numpy as np
from sklearn.datasets import load_digits


def digits_rbf_posterior():
    """Posterior mean ``[500, 10]``, covariance ``[500, 500]`` and test targets ``[500, 10]``."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    x, y = data.data[order[:1000]] / 16, np.eye(10)[data.target[order[:1000]]]
    square = (x**2).sum(axis=1)
    gram = np.exp(-(square[:, None] + square - 2 * x @ x.T) / 2)
    solved = np.linalg.solve(gram[:500, :500], gram[:500, 500:])
    return solved.T @ y[:500], gram[500:, 500:] - gram[500:, :500] @ solved, y[500:]
