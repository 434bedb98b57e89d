"""The ways the engine is compared with do the same work, and the tables say what was measured."""

import dataclasses
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmarks import train_engine, train_scaling, train_ways
from genjax.models import Model
from genjax.run import make_train
from genjax.tasks import make_task

# Two full chunks; few enough steps that all draws can be made anew for each.
TINY = train_ways.Size(width=4, batch_size=8, steps=5, n_seeds=4, n_rates=4, n_train=40, n_test=20)
# The same sums in another order, in float64, over five steps of Adam (PyTorch's epsilon enters otherwise).
CLOSE = {"rtol": 1e-8}


@pytest.fixture(scope="module")
def problem():
    return train_ways.make_problem(TINY)


@pytest.fixture(scope="module")
def start(problem):
    """The engine's initial parameters of a member."""
    train = problem.train
    return lambda key: train.init(train.prepare(key, {"learning_rate": 0.1})).params


@pytest.fixture(scope="module")
def draw(problem):
    """The rows the engine trains on in a step, read off a model whose state is the batch it saw."""
    rows = jnp.arange(TINY.n_train, dtype=float)[:, None]
    nothing = jnp.zeros_like(rows)
    model = Model(
        lambda key, x: (jnp.zeros(1), jnp.zeros(TINY.batch_size)),
        lambda params, seen, x, *, key=None, train=False: (params * x, x[:, 0]),
    )
    train = make_train(model, make_task(rows, nothing, rows, nothing), optax.sgd(0.0), problem.train.config)
    train = dataclasses.replace(train, config=dataclasses.replace(train.config, loss="squared_error"))

    def seen(key, step):
        context = train.prepare(key, {})
        return train.advance(context, train.init(context), 0, step + 1).model_state.astype(int)

    return seen


@pytest.fixture(scope="module")
def reference(problem):
    losses = train_ways.engine(problem)()
    assert losses.shape == (16,)
    assert len(np.unique(losses)) == 16
    return losses


@pytest.mark.parametrize("way", ["scan", "sequential", "sequential_train", "steps", "donated_steps"])
def test_every_way_trains_the_same_members(problem, start, draw, reference, way):
    hand = train_ways.hand_written(problem, start, draw)
    run = {
        "scan": lambda: train_ways.hand_written_scan(problem, hand),
        "sequential": lambda: train_ways.sequential(problem, hand),
        "sequential_train": lambda: train_ways.sequential_train(problem),
        "steps": lambda: train_ways.step_by_step(problem, hand, donate=False),
        "donated_steps": lambda: train_ways.step_by_step(problem, hand, donate=True),
    }[way]()
    np.testing.assert_allclose(run(), reference, **CLOSE)


def test_hand_written_batches_are_independent_draws_of_their_own(problem, start, reference):
    own = train_ways.hand_written_scan(problem, train_ways.hand_written(problem, start))()
    assert own.shape == reference.shape
    assert not np.any(np.isclose(own, reference, **CLOSE))


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason=train_ways.NO_TORCH)
@pytest.mark.parametrize("way", ["(c) plain PyTorch", "(d) torch.func, all members"])
def test_pytorch_trains_the_same_members(problem, start, draw, reference, way):
    keys, _ = problem.members()

    def weights(member):
        # Flax keeps kernels as [in, out] and orders layers by name; PyTorch keeps them as [out, in].
        layers = [layer for _, layer in sorted(start(keys[member]).items())]
        names = {"weight": lambda layer: np.asarray(layer["kernel"]).T, "bias": lambda layer: np.asarray(layer["bias"])}
        return {
            f"{i}.{name}": get(layer) for i, layer in zip((0, 2), layers, strict=True) for name, get in names.items()
        }

    drawn = [np.asarray(jax.vmap(draw, (0, None))(keys, step)) for step in range(TINY.steps)]
    run = train_ways.torch_ways(problem, weights, lambda step: drawn[step])[way]
    # All in float64 but the learning rates, which torch.func's Adam divides in float32.
    np.testing.assert_allclose(run(), reference, rtol=1e-6)


def test_missing_pytorch_is_told_and_its_rows_left_out(problem, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "skipped" in train_ways.torch_missing()
    assert [name[:3] for name in train_ways.ways(problem)] == ["eng", "han", "(a)", "(a)", "(b)", "(b)"]


def way(cpu_s, engine_cpu_s):
    return {
        "cpu_s": cpu_s,
        "wall_s": cpu_s,
        "cpu_s_all": [cpu_s],
        "first_call_extra_cpu_s": 1.0,
        "times_engine": cpu_s / engine_cpu_s,
        "mean_test_loss": 0.5,
    }


def made_up(*, engine=1.0, scan=1.0, alone=2.0, used=1.0e9, gpu=None):
    """What ``measure`` returns, with round numbers."""
    ways = {
        "engine": way(engine, engine),
        "hand-written vmapped scan": way(scan, engine),
        "(a) alone": way(alone, engine),
    }
    size = dataclasses.asdict(train_ways.SMALL)
    return {
        "task": "digits",
        "torch": train_ways.NO_TORCH,
        "throughput": [{"size": size, "bars": {"(a)": 1.4}, "ways": ways}],
        "many": {"size": size, "ways": {name: ways[name] for name in list(ways)[:2]}},
        "compilation": {
            state: {"first_cpu_s": 3.0, "second_cpu_s": 1.0, "compile_cpu_s": 2.0, "wall_s": {"XLA": 2.0}}
            for state in ("empty cache", "filled cache")
        },
        "memory": {str(n): {"peak_bytes": 10**9 + 100 * n} for n in train_scaling.MEMBERS},
        "planner": {"chunk": 8, "predicted_bytes": 1.1e9, "measured_bytes": used},
        "sharing": {
            "cores": 2,
            "pinned": True,
            "equal": True,
            "ways": {
                name: {"cpu_s": [1.0], "wall_s": [1.0], "efficiency": 0.8}
                for name in (train_scaling.ALONE, "2 processes")
            },
        },
        "gpu": gpu,
    }


def test_the_table_says_which_bars_hold():
    found = made_up(engine=1.0, scan=0.95, alone=1.5)
    rows = {what: (value, holds) for what, value, _, holds in train_engine.checks(found)}
    assert rows["H = 32: engine faster than (a) alone"] == (1.5, True)
    assert not any("faster than hand-written" in what for what in rows)
    overhead, holds = rows["H = 32: engine beyond a hand-written scan"]
    assert holds
    np.testing.assert_allclose(overhead, 1 / 0.95 - 1)
    rows = {what: (value, holds) for what, value, _, holds in train_scaling.checks(found)}
    assert rows["compilation in a second process, CPU-s"] == (2.0, False)
    assert rows["peak bytes per member, 64 to 4096 members at chunk 32"] == (100.0, True)
    np.testing.assert_allclose(rows["planner's prediction over use, minus 1"][0], 0.1)
    assert rows["CPU efficiency from 1 process to 2 processes, median of 1"] == (0.8, False)
    slower = {what: holds for what, _, _, holds in train_engine.checks(made_up(scan=0.9, alone=1.3))}
    assert not slower["H = 32: engine faster than (a) alone"]
    assert not slower["H = 32: engine beyond a hand-written scan"]


def test_the_report_shows_what_was_and_was_not_measured():
    text = train_engine.report(made_up(used=None))
    assert train_ways.NO_TORCH in text
    assert "used not measured" in text
    assert "on a GPU: not measured" in text
    assert "MISSED" in text
    assert "planner's prediction" not in text
    gpu = {"device": "Some GPU", "sequential": 3.0, "seeds_per_s": {"1": 2.0, "16384": 90000.0}}
    text = train_engine.report(made_up(gpu=gpu))
    assert "Some GPU" in text
    assert "90,000.0" in text
    assert "predicted 1100 MB, used 1000 MB" in text


def test_ways_are_compared_within_one_repetition():
    calls = []

    def noted(name):
        return lambda: calls.append(name) or np.array([1.0, 3.0])

    found = train_engine.compare({"engine": noted("engine"), "other": noted("other")}, repetitions=2)
    assert calls == ["engine", "other"] * 3
    assert found["engine"]["times_engine"] == 1
    assert found["other"]["mean_test_loss"] == 2
    assert len(found["other"]["cpu_s_all"]) == 2


def test_seeds_per_second_by_number_of_members():
    found = train_scaling.seeds_per_second(TINY, (1, 3), repetitions=1)
    assert list(found["seeds_per_s"]) == ["1", "3"]
    assert all(rate > 0 for rate in (found["sequential"], *found["seeds_per_s"].values()))


def test_without_a_gpu_nothing_is_measured():
    assert jax.default_backend() == "cpu"
    assert train_scaling.gpu_probe() is None


@pytest.mark.skipif(train_scaling._resident("VmRSS") is None, reason="this system does not tell a process's memory")
def test_resident_memory_grows_by_what_is_in_use():
    before = train_scaling._resident("VmRSS")
    held = np.ones(2**24)  # 128 MiB
    # Other threads may give back or take a few pages meanwhile.
    assert train_scaling._resident("VmRSS") - before > 0.9 * held.nbytes
    assert train_scaling._resident("VmHWM") >= train_scaling._resident("VmRSS")


@pytest.mark.slow
def test_two_processes_and_two_devices_give_equal_results(monkeypatch):
    monkeypatch.setattr(train_scaling, "N_REPETITIONS", 1)
    found = train_scaling.compare_sharing()
    assert found["equal"]
    assert list(found["ways"]) == ["1 process", "2 processes", "2 virtual devices"]
