r"""One estimate, with an error a statistician would accept, from independent unbiased ones known by their logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import t as student

Logs = NDArray[np.float64]

WIDEST_SCATTER = 1.0
"""Standard deviation of the replicas' logs, nats, beyond which their plain mean hides its error."""


class Combined(NamedTuple):
    """Value, standard error and 95 % interval, nats, ``float64[...]`` each."""

    value: Logs
    stderr: Logs
    low: Logs
    high: Logs


def log_mean(logs: Logs) -> Logs:
    r"""Log of the mean of replicas given by their logs ``[R, ...]``.

    The plain mean while the logs scatter by at most ``WIDEST_SCATTER``; that is exactly unbiased. Beyond, a few
    replicas would carry the whole mean and hide its error; the mean of a log-normal law, :math:`m + s^2/2`, then uses
    all of them.

    Args:
      logs: ``float64[R, ...]``, nats; ``-inf`` for replicas that died out.

    Returns:
      ``float64[...]``.

    References:
      Zhou & Gao (1997), Confidence intervals for the log-normal mean.
    """
    plain = logsumexp(logs, axis=0) - np.log(len(logs))
    with np.errstate(invalid="ignore"):
        spread = np.std(logs, axis=0, ddof=1)
        wide = np.mean(logs, axis=0) + spread**2 / 2
    return np.where(np.isfinite(spread) & (spread > WIDEST_SCATTER), wide, plain)


def log_ratio(above: Logs, below: Logs) -> Logs:
    """Log of the ratio of two means, of replicas given by their logs ``[R, ...]``.

    Args:
      above: ``float64[R, ...]``, nats.
      below: ``float64[R, ...]``, nats.

    Returns:
      ``float64[...]``.

    References:
      The ratio estimate; its bias is of the order of the variance of the logs over R.
    """
    return log_mean(above) - log_mean(below)


def jackknife(statistic: Callable[..., Logs], *logs: Logs) -> Combined:
    """A statistic of replicas, with the jackknife's standard error and Student's interval over the replicas.

    Args:
      statistic: function of arrays ``[R, ...]``, smooth in each replica.
      *logs: ``float64[R, ...]``; the same replicas in each, so that what they share cancels.

    Returns:
      The estimate; a standard error of NaN where it is not finite without some replica.

    References:
      Efron & Stein (1981), The jackknife estimate of variance.
    """
    n = len(logs[0])
    with np.errstate(invalid="ignore"):
        value = statistic(*logs)
        stderr = np.sqrt((n - 1) / n * np.sum(_leave_one_out(statistic, *logs) ** 2, axis=0))
    half = student.ppf(0.975, n - 1) * stderr
    return Combined(value, stderr, value - half, value + half)


def jackknife_covariance(logs: Logs) -> Logs:
    """Covariance of the log means of several quantities, of replicas given by their logs ``[R, e]``.

    Args:
      logs: ``float64[R, e]``, nats.

    Returns:
      ``float64[e, e]``, nats squared.

    References:
      Efron & Stein (1981), The jackknife estimate of variance.
    """
    with np.errstate(invalid="ignore"):
        centered = _leave_one_out(log_mean, logs)
    return (len(logs) - 1) / len(logs) * centered.T @ centered


def _leave_one_out(statistic: Callable[..., Logs], *logs: Logs) -> Logs:
    """The statistic without each replica ``[R, ...]``, less its mean."""
    without = np.stack([statistic(*(np.delete(array, i, axis=0) for array in logs)) for i in range(len(logs[0]))])
    return without - without.mean(axis=0)
