"""Random generalized chi-squared laws and their mpmath values: the oracle for ``test_generalized_chi2.py``.

The oracle inverts the Laplace transform with 30 digits along its own contour, doubling the nodes until 15 digits stand
still. That takes seconds to minutes a law, so the values are kept in ``tests/golden``; the suite recomputes
the cheap ones. Regenerate all (a few minutes): ``python -m tests.volume.chi2_laws``.
"""

import json
import math
import random
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import mpmath as mp

GOLDEN = Path(__file__).parents[1] / "golden" / "generalized_chi2.json"
N_LAWS = 320


class Law(NamedTuple):
    x: float
    weights: list[float]
    multiplicities: list[float]
    offsets: list[float]


def random_law(index: int) -> Law:
    """Law number ``index``: 1 to 10^4 components, weights over 8 decades, both tails and the middle."""
    rng = random.Random(index)
    size = 10_000 if index % 40 == 39 else int(10 ** rng.uniform(0, 3 if index % 8 == 7 else 1.7))
    weights = [10 ** rng.uniform(-8, 0) for _ in range(size)]
    kind = 10 if index % 80 == 79 else rng.choice([1, 2, 10, "fractional", "mixed"])
    draw = {
        "fractional": lambda: rng.uniform(0.1, 4),
        "mixed": lambda: rng.choice([1, 2, 10, rng.uniform(0.1, 4)]),
    }.get(kind, lambda: kind)
    multiplicities = [float(draw()) for _ in range(size)]
    strength = rng.choice([0, 1, 30])
    offsets = [strength * w * rng.random() for w in weights]
    # fsum: the built-in sum rounds differently from Python 3.12 on, and the law must be the same everywhere.
    mean = math.fsum(h * w + a for h, w, a in zip(multiplicities, weights, offsets))
    variance = math.fsum(2 * h * w * w + 4 * a * w for h, w, a in zip(multiplicities, weights, offsets))
    where = "deepest" if index % 80 == 79 else rng.choice(["deep", "deep", "middle", "above"])
    if where == "deepest":
        x = mean * 10 ** rng.uniform(-8, -7)
    elif where == "deep":
        x = mean * 10 ** rng.uniform(-9, 0)
    elif where == "middle":
        x = max(mean / 3, mean + variance**0.5 * rng.uniform(-3, 3))
    else:
        x = mean + variance**0.5 * 10 ** rng.uniform(-1, 2.5)
    return Law(x, weights, multiplicities, offsets)


def mpmath_log_probabilities(law: Law) -> tuple[mp.mpf, mp.mpf]:
    """Return ``(log cdf, log sf)`` to about 15 digits of the smaller probability."""
    with mp.workdps(30):
        x = mp.mpf(law.x)
        components = [(mp.mpf(w), mp.mpf(h) / 2, mp.mpf(a)) for w, h, a in zip(*law[1:])]
        apex = 1 / (2 * max(w for w, _, _ in components))
        mean = mp.fsum(2 * h * w + a for w, h, a in components)
        above = x >= mean
        anchor = 1 if above else 0

        def saddle_equation(t):
            tilted = mp.fsum(2 * h * w / (1 + 2 * t * w) + a / (1 + 2 * t * w) ** 2 for w, h, a in components)
            return tilted + 1 / t + anchor / (t + apex) - x

        low, high = (-apex, mp.mpf(0)) if above else (mp.mpf(0), 1 / x)
        while not above and saddle_equation(high) > 0:
            high *= 8
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if saddle_equation(middle) > 0 else (low, middle)
        t0 = (low + high) / 2
        tilted = [(w, h, a, 1 + 2 * t0 * w) for w, h, a in components]
        curvature = mp.fsum(4 * h * (w / r) ** 2 + 4 * a * w / r**3 for w, h, a, r in tilted)
        s = (curvature + 1 / t0**2 + anchor / (t0 + apex) ** 2) ** -0.5

        def log_transform(t):
            return -mp.fsum(h * mp.log(1 + 2 * t * w) + (a * t / (1 + 2 * t * w) if a else 0) for w, h, a in components)

        at_saddle = log_transform(t0) + t0 * x

        def integrand(u):
            t = t0 + s * mp.mpc(-(mp.cosh(u) - 1) / 3, mp.sinh(u))
            step = s * mp.mpc(-mp.sinh(u) / 3, mp.cosh(u))
            return (mp.exp(log_transform(t) + t * x - at_saddle) * step / t).imag

        length = mp.mpf(2)
        while any(abs(integrand(length * f)) > 1e-19 for f in (1, 1.01)):
            length *= 1.1
        n = 16
        total = mp.fsum(integrand(length * i / n) for i in range(1, n + 1)) + integrand(mp.mpf(0)) / 2
        estimate, previous = total * length / n, mp.inf
        while abs(estimate - previous) > mp.mpf(10) ** -15 * abs(estimate):
            assert n < 4096, "the oracle's contour does not converge"
            total += mp.fsum(integrand(length * (2 * i + 1) / (2 * n)) for i in range(n))
            n *= 2
            previous, estimate = estimate, total * length / n
        direct = at_saddle + mp.log(abs(estimate) / mp.pi)
        complement = mp.log1p(-mp.exp(direct)) if direct < -1 else mp.log(-mp.expm1(direct))
        return (complement, direct) if above else (direct, complement)


def golden_entry(index: int) -> list[str]:
    return [mp.nstr(value, 22) for value in mpmath_log_probabilities(random_law(index))]


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        values = list(pool.map(golden_entry, range(N_LAWS)))
    GOLDEN.write_text(json.dumps(values, indent=0) + "\n")
