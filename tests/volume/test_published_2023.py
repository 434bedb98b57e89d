"""The 2023 closed form against the published values, recomputed from the published constants."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import binom, gamma

from genjax.volume.published.boopathy2023 import (
    TASKS_2023,
    Complexity,
    cartpole,
    eigenfunction_count,
    meta_learning,
    reinforcement,
    supervised,
)

# bits; frequency, degree, eigenfunctions, parameters. The table is printed to 3 or 4 digits: half a unit of the last.
TABLE = {
    "mnist": (1.485e16, 45.0, 39.0, 4.13e12, 7.43e14),
    "svhn": (1.213e31, 214.7, 205.9, 3.50e27, 6.30e29),
    "cifar10": (3.438e32, 125.4, 113.1, 1.03e29, 1.85e31),
    "imagenet": (3.583e41, 91.2, 70.7, 7.18e33, 1.44e40),
}
THREE, FOUR = 5.1e-3, 5.1e-4


@pytest.mark.parametrize("task", TABLE)
def test_supervised_table(task):
    bits, frequency, degree, count, parameters = TABLE[task]
    constants = TASKS_2023[task]
    # One unit of the printed fourth digit: 3.5832e41 is printed 3.583.
    assert supervised(**constants).bits == pytest.approx(bits, rel=FOUR)
    exact_frequency = 2 * math.pi * constants["radius"] / constants["delta"]
    assert exact_frequency == pytest.approx(frequency, abs=0.051)
    exact_degree, log_count = eigenfunction_count(constants["dimension"], exact_frequency)
    assert exact_degree == pytest.approx(degree, abs=0.051)
    assert math.exp(log_count) == pytest.approx(count, rel=THREE)
    classes = constants["n_classes"]
    assert 2 * (classes - 1) * classes * math.exp(log_count) == pytest.approx(parameters, rel=THREE)


def test_control_and_meta_learning_table():
    for task, bits in {"reacher": 2.91e25, "hopper": 7.61e58, "half_cheetah": 1.72e66}.items():
        assert reinforcement(**TASKS_2023[task]).bits == pytest.approx(bits, rel=THREE)
    assert meta_learning(**TASKS_2023["omniglot"]).bits == pytest.approx(1.79e145, rel=THREE)


@pytest.mark.parametrize(("t", "bits"), [(1, 4.41e9), (2, 3.33e17), (3, 1.46e25), (4, 4.69e32), (5, 1.19e40)])
def test_cartpole_table_and_its_own_formula(t, bits):
    value = cartpole(t)
    assert value.bits == pytest.approx(bits, rel=THREE)
    # The formula as published, whose constant and dimension look different from the control one.
    n, delta, error = 1e4, 1e-3, 1e-3
    ratio = math.log2(4 * math.pi**2 / math.sqrt(3)) + 0.5 * math.log2(t) - math.log2(delta) - math.log2(n) / (2 * t)
    free = 2 * (2 * math.pi / delta) ** (2 * t) * math.pi**t / gamma(t + 1) - n
    assert value.bits == pytest.approx(free * (ratio - math.log2(error)), rel=1e-12)


def test_reacher_error_sweep():
    for error, bits in {0.1: 2.07e25, 1e-3: 2.91e25, 1e-8: 5.03e25}.items():
        assert reinforcement(**TASKS_2023["reacher"], error=error).bits == pytest.approx(bits, rel=THREE)


def test_imagenet_sweeps():
    imagenet = dict(TASKS_2023["imagenet"])
    for n, bits in {1e2: 3.624e41, 1e6: 3.584e41, 1e10: 3.545e41, 1e19: 3.455e41}.items():
        assert supervised(**imagenet | {"n_train": n}).bits == pytest.approx(bits, rel=FOUR)
    # The table of architectures at dimension 48, and at 99, where the published script evaluates it.
    for dimension, error, bits in [
        (48, 0.97, 3.11e41),
        (48, 0.0906, 3.60e41),
        (99, 0.97, 9.4e49),
        (99, 0.0906, 1.09e50),
    ]:
        value = supervised(**imagenet | {"error": error, "dimension": dimension}).bits
        assert value == pytest.approx(bits, rel=6e-3)


def test_orders():
    values = [supervised(**TASKS_2023[task]).log_nats for task in ("mnist", "svhn", "cifar10", "imagenet")]
    assert values == sorted(values)
    control = [reinforcement(**TASKS_2023[task]).log_nats for task in ("reacher", "hopper", "half_cheetah")]
    control.append(meta_learning(**TASKS_2023["omniglot"]).log_nats)
    assert control == sorted(control)
    # About 7.7 decades per observation.
    steps = [cartpole(t + 1).log10_bits - cartpole(t).log10_bits for t in range(1, 5)]
    assert min(steps) > 7.3
    assert max(steps) < 8


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 40), st.floats(0.1, 100))
def test_eigenfunction_count_equals_binomials(dimension, frequency):
    degree, log_count = eigenfunction_count(dimension, frequency)
    # The defining equation K (K + m - 1) = M^2.
    assert degree * (degree + dimension - 1) == pytest.approx(frequency**2, rel=1e-12)
    exact = binom(dimension + degree, dimension) + binom(dimension + degree - 1, dimension)
    # SciPy's real binomial loses digits for large arguments.
    assert log_count == pytest.approx(math.log(exact), rel=1e-9, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 20), st.integers(2, 50), st.floats(2, 30), st.floats(1e-4, 1e-2))
def test_supervised_equals_the_formula_in_ordinary_numbers(m, classes, radius, error):
    n, delta, bound, d = 1.0, 1.5, 2.0, classes - 1
    degree = (math.sqrt((m - 1) ** 2 + 4 * (2 * math.pi * radius / delta) ** 2) - (m - 1)) / 2
    count = binom(m + degree, m) + binom(m + degree - 1, m)
    transport = math.sqrt(m / 6) * radius
    transport *= (2 * math.pi ** ((m + 1) / 2) * classes / gamma((m + 1) / 2) / n) ** (1 / m)
    ratio = bound * math.sqrt(d * classes) * degree * math.sqrt(d) / radius * transport / error
    exact = (2 * d * classes * count - n * d) * math.log(ratio)
    value = supervised(n_train=n, radius=radius, dimension=m, n_classes=classes, delta=delta, error=error, bound=bound)
    assert value.nats == pytest.approx(exact, rel=1e-9)


def test_units_and_overflow():
    assert Complexity(0.0).bits == pytest.approx(1 / math.log(2))
    assert Complexity(0.0).nats == 1
    assert Complexity(10.0).log10_bits == pytest.approx(math.log10(Complexity(10.0).bits))
    huge = cartpole(60)
    assert huge.bits == huge.nats == math.inf
    # The formula by decimal logarithms; the training set is nothing beside it.
    log_parameters = math.log10(2) + 120 * math.log10(2e3 * math.pi) + 60 * math.log10(math.pi)
    ratio = math.log2(4 * math.pi**2 / math.sqrt(3) * math.sqrt(60) * 1e6) - math.log2(1e4) / 120
    exact = log_parameters - math.log10(math.factorial(60)) + math.log10(ratio)
    assert huge.log10_bits == pytest.approx(exact, rel=1e-13)


def test_constants_are_read_only():
    with pytest.raises(TypeError, match="item assignment"):
        TASKS_2023["mnist"]["n_train"] = 1
    with pytest.raises(TypeError, match="item assignment"):
        TASKS_2023["mnist"] = {}


def test_vacuous_bounds_say_which_term():
    mnist = dict(TASKS_2023["mnist"])
    with pytest.raises(ValueError, match=r"`n_train` must leave free parameters.*dim Theta - n D is not positive"):
        supervised(**mnist | {"n_train": 1e15})
    with pytest.raises(ValueError, match=r"`error` must be smaller .* the log ratio is not positive"):
        supervised(**mnist | {"error": 1e9})
    with pytest.raises(ValueError, match="`n_train` must leave free parameters"):
        cartpole(1, n_train=1e9)
    with pytest.raises(ValueError, match="`error` must be smaller"):
        reinforcement(dimension=6, n_actions=2, error=1e8)


BAD = [
    (lambda: supervised(**TASKS_2023["mnist"] | {"n_classes": 1}), "`n_classes` must be a whole number of at least 2"),
    (lambda: supervised(**TASKS_2023["mnist"] | {"n_classes": 2.5}), "`n_classes` must be a whole number"),
    (lambda: supervised(**TASKS_2023["mnist"] | {"delta": 0}), "`delta` must be positive and finite, but 0 came"),
    (lambda: supervised(**TASKS_2023["mnist"] | {"radius": math.inf}), "`radius` must be"),
    (lambda: supervised(**TASKS_2023["mnist"] | {"error": -1e-3}), "`error` must be positive"),
    (lambda: supervised(**TASKS_2023["mnist"] | {"n_train": math.nan}), "`n_train` must be"),
    (lambda: supervised(**TASKS_2023["mnist"] | {"dimension": 0.5}), "`dimension` must be at least 1"),
    (lambda: supervised(**TASKS_2023["mnist"], bound=0), "`bound` must be"),
    (
        lambda: meta_learning(**TASKS_2023["omniglot"] | {"dimension_within": 0.5}),
        "`dimension_within` must be at least 1",
    ),
    (lambda: meta_learning(**TASKS_2023["omniglot"] | {"dimension_across": 0}), "`dimension_across` must be"),
    (lambda: reinforcement(dimension=0, n_actions=2), "`dimension` must be"),
    (lambda: reinforcement(dimension=2, n_actions=0), "`n_actions` must be"),
    (lambda: cartpole(0), "`n_observations` must be"),
    (lambda: eigenfunction_count(2, 0), "`frequency` must be"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("value", ["3", None, True, [3]])
def test_bad_types_are_named(value):
    with pytest.raises(TypeError, match="`n_observations` must be a positive number"):
        cartpole(value)
