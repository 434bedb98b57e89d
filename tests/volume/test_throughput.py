"""The ways the benchmark of throughput compares do the same work, and its table says what was measured."""

import dataclasses
import importlib.util

import jax
import numpy as np
import pytest

from experiments.benchmarks import train_ways
from experiments.benchmarks import volume_throughput as bench
from experiments.benchmarks.network_reference import LOG_FIT, digits_3_vs_8

TINY = dataclasses.replace(bench.TRAINED, width=4, batch_size=8, steps=5, n_seeds=3, n_train=40, n_test=20, chunk=3)
no_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason=train_ways.NO_TORCH)


@pytest.mark.slow
def test_the_method_trains_what_the_engine_trains():
    problem = train_ways.make_problem(TINY)
    errors = bench.trained_ways(problem)["genjax, trained"]()
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(np.arange(3))
    history = jax.jit(jax.vmap(lambda key: problem.train(key, {"learning_rate": problem.rates[0]}).history))(keys)
    # Whole numbers of wrong images; a margin of zero would be needed for another order of sums to change one.
    np.testing.assert_allclose(errors, history["test_error"][:, -1])


@no_torch
@pytest.mark.parametrize("way", [bench.LOOP, f"PyTorch, batches of {bench.BATCH}"])
def test_pytorch_draws_from_the_same_space(way):
    _, task = digits_3_vs_8()
    n = 2**14
    errors = bench.torch_draws(task, n)[way]()
    # About 49 of them fit; 4 standard errors. P(error <= 0.2 | fit) is e^-0.955, and 0.07 its standard error.
    assert abs(np.log(len(errors) / n) - LOG_FIT[0]) < 4 / np.sqrt(len(errors))
    assert abs(np.mean(errors <= 0.2) - np.exp(-0.955)) < 0.28


def made_up(ratio):
    def way(rate, times):
        return {
            "hypotheses_per_cpu_s": rate,
            "hypotheses_per_s": rate,
            "times_ours": times,
            "cpu_s_all": [1.0],
            "first_call_extra_cpu_s": 2.0,
        }

    trained = {"genjax, trained": way(100.0, 1.0)} | ({bench.LOOP: way(100.0 / ratio, ratio)} if ratio else {})
    drawn = {"genjax, guess and check": way(1e5, 1.0)}
    return {
        "torch": "2.0" if ratio else train_ways.NO_TORCH,
        "trained": {"hypotheses": 64, "ways": trained},
        "drawn": {"hypotheses": 1000, "ways": drawn},
    }


def test_the_table_says_whether_the_bar_holds():
    assert "holds" in bench.report(made_up(20.0))
    assert "MISSED" in bench.report(made_up(10.0))
    text = bench.report(made_up(None))
    assert train_ways.NO_TORCH in text
    assert "100,000.0" in text
    assert bench.checks(made_up(None)) == []


def test_rates_are_of_median_times():
    way = {"cpu_s": 2.0, "wall_s": 4.0, "times_engine": 3.0, "cpu_s_all": [2.0], "first_call_extra_cpu_s": 1.0}
    (found,) = bench.rates(100, {"a way": way}).values()
    assert (found["hypotheses_per_cpu_s"], found["hypotheses_per_s"], found["times_ours"]) == (50, 25, 3)
