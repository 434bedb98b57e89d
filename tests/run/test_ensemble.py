"""A member's numbers depend on its key, its hyper-parameters and the chunk width: on nothing else, to the last bit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.errors import GenjaxError
from genjax.models import mlp
from genjax.random import seed_key, seed_keys
from genjax.run import (
    ChunkPlan,
    Execution,
    MemberStatus,
    Program,
    Stopping,
    dispatch,
    ensemble,
    make_members,
    plan_chunk,
    snapshot_params,
)
from genjax.run.program import Function
from tests.run.small import N_FEATURES, N_HIDDEN, apply, init, small_train

QUIET = Execution(chunk=4, progress=False)
TRAIN = small_train()
GRID = {"learning_rate": [0.05, 0.1, 0.2]}
ONE, TWO = jax.devices()[:1], jax.devices()[:2]


@pytest.fixture(scope="module")
def reference():
    """Three learning rates by three seeds: nine members in chunks of four, one padded."""
    return ensemble(TRAIN, 3, GRID, execution=QUIET, devices=ONE)


def same(first, second):
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name].values, second[name].values, err_msg=name)


def test_results_are_labelled(reference):
    assert dict(reference.sizes) | {"learning_rate": 3, "seed": 3, "step": 4, "snapshot": 1} == dict(reference.sizes)
    assert reference["test_loss"].dims == ("learning_rate", "seed", "step")
    assert reference["params.w"].dims == ("learning_rate", "seed", "snapshot", "params.w_0", "params.w_1")
    assert reference["status"].dims == ("learning_rate", "seed")
    assert reference["step"].values.tolist() == [0, 3, 7, 12]
    assert reference.sel(learning_rate=0.1).sizes["seed"] == 3
    assert {"task", "train", "chunk", "dispatch", "provenance"} <= set(reference.attrs)


def test_every_member_is_what_the_function_gives_by_itself(reference):
    run = jax.jit(TRAIN)
    for i, rate in enumerate(GRID["learning_rate"]):
        for seed in range(3):
            alone = run(seed_key(0, seed), {"learning_rate": rate})
            member = reference.isel(learning_rate=i, seed=seed)
            # Another batch width may round otherwise.
            np.testing.assert_allclose(member["test_loss"], alone.history["test_loss"], rtol=1e-9)
            np.testing.assert_allclose(member["params.w"][0], alone.params["w"], rtol=1e-9)


@pytest.mark.parametrize("segment", [1, 5, 12, None])
def test_segments_change_nothing(reference, segment):
    same(
        reference, ensemble(TRAIN, 3, GRID, execution=Execution(chunk=4, segment=segment, progress=False), devices=ONE)
    )


def test_two_devices_change_nothing(reference):
    same(reference, ensemble(TRAIN, 3, GRID, execution=QUIET, devices=TWO))


def test_position_and_company_change_nothing(reference):
    alone = ensemble(TRAIN, seed_keys(0, 3)[1:2], {"learning_rate": [0.2]}, execution=QUIET, devices=ONE)
    same(reference.isel(learning_rate=[2], seed=[1]).drop_vars("seed"), alone.drop_vars("seed"))
    backwards = ensemble(
        TRAIN, seed_keys(0, 3)[::-1], {"learning_rate": [0.2, 0.1, 0.05]}, execution=QUIET, devices=ONE
    )
    same(reference.isel(learning_rate=[2, 1, 0], seed=[2, 1, 0]).drop_vars("seed"), backwards.drop_vars("seed"))


def test_a_diverging_neighbour_changes_nothing(reference):
    found = ensemble(TRAIN, 3, {"learning_rate": [0.05, np.inf, 0.2]}, execution=QUIET, devices=ONE)
    same(reference.isel(learning_rate=[0, 2]), found.isel(learning_rate=[0, 2]))
    assert np.all(found["status"].isel(learning_rate=1) == MemberStatus.DIVERGED)
    assert np.all(found["stop_step"].isel(learning_rate=1) >= 0)
    assert np.all(np.isnan(found["train_loss"].isel(learning_rate=1, step=-1)))


def test_a_neighbour_that_stops_changes_nothing():
    # A reached loss stops whoever learns at all; a learning rate of zero stays where it began.
    schedule = {"steps": 60, "records": (0, 30, 60), "snapshots": (60,)}
    start = ensemble(small_train(**schedule), 3, {"learning_rate": [0.1]}, execution=QUIET, devices=ONE)["train_loss"]
    threshold = float(start[0, :, 1:].min(dim="step").max()) + 1e-3
    train = small_train(**schedule, stopping=Stopping(train_loss=threshold))
    assert threshold < float(start[0, :, 0].min())
    stopping, running = (
        ensemble(train, 3, {"learning_rate": [0.0, rate]}, execution=QUIET, devices=ONE) for rate in (0.1, 0.0)
    )
    assert np.all(stopping["status"].isel(learning_rate=1) == MemberStatus.LOSS_REACHED)
    assert np.all(running["status"] == MemberStatus.ALL_STEPS)
    same(stopping.isel(learning_rate=0), running.isel(learning_rate=0))


def test_shard_map_agrees(reference):
    execution = Execution(chunk=4, dispatch="shard_map", progress=False)
    one = ensemble(TRAIN, 3, GRID, execution=execution, devices=ONE)
    two = ensemble(TRAIN, 3, GRID, execution=execution, devices=TWO)
    for name in ("test_loss", "params.w"):
        # Another executable may fuse, and so round, otherwise.
        np.testing.assert_allclose(one[name], reference[name], rtol=1e-9)
        np.testing.assert_allclose(two[name], reference[name], rtol=1e-9)


def test_members_that_have_all_stopped_end_the_chunk_and_show_their_last_state():
    rules = {"steps": 40, "records": tuple(range(0, 41, 4)), "snapshots": (20, 40)}
    train = small_train(**rules, stopping=Stopping(train_loss=0.69))
    lines = []
    execution = Execution(chunk=4, segment=4, progress=False)
    found = ensemble(
        train, 3, {"learning_rate": [0.1]}, execution=execution, devices=ONE, log=lambda i, v: lines.append(v)
    )
    whole = ensemble(train, 3, {"learning_rate": [0.1]}, execution=QUIET, devices=ONE)
    same(found, whole)
    last = int(found["stop_step"].max())
    assert 0 <= last < 40
    assert max(line["step"] for line in lines) == last
    assert found.sizes["step"] == 11


def test_one_compilation_serves_every_chunk_and_value(monkeypatch):
    once = chex.assert_max_traces(dispatch.advance_members, n=1)
    monkeypatch.setattr(dispatch, "_advance", jax.jit(once, donate_argnums=1))
    for seeds, rates in ((3, [0.1]), (6, [0.3, 0.4, 0.5])):
        found = ensemble(TRAIN, seeds, {"learning_rate": rates}, execution=QUIET, devices=ONE)
        assert found["status"].size == seeds * len(rates)
    with pytest.raises(AssertionError, match="traced"):
        ensemble(TRAIN, 3, {"learning_rate": [0.1]}, execution=Execution(chunk=2, progress=False), devices=ONE)


def walk(key, hparams):
    steps = hparams["scale"] * jax.random.normal(key, (5, 2))
    return {"path": jnp.cumsum(steps, axis=0), "end": jnp.sum(steps, axis=0)}


def test_any_pure_function_can_be_mapped():
    found = ensemble(walk, 5, {"scale": [1.0, 2.0]}, dims={"path": ("time", "axis")}, execution=QUIET)
    assert found["path"].dims == ("scale", "seed", "time", "axis")
    assert found["end"].dims == ("scale", "seed", "end_0")
    for seed in range(5):
        # Mapped over a chunk, sums may be taken in another order.
        np.testing.assert_allclose(found["end"][1, seed], walk(seed_key(0, seed), {"scale": 2.0})["end"], rtol=1e-12)
    scalar = ensemble(lambda key, hparams: jax.random.normal(key), 3, execution=QUIET)
    assert scalar["value"].dims == ("seed",)


def test_the_planner_sees_what_a_plain_function_needs():
    def heavy(key, hparams):
        return jnp.linalg.norm(jnp.sort(jax.random.normal(key, (300, 100)), axis=0))

    members = make_members(8)
    assert plan_chunk(Function(heavy), members, 1e9).bytes_per_member > 300 * 100 * 8


def test_kept_parameters_become_pytrees_again(reference):
    like = jax.eval_shape(init, seed_key(0))
    params = snapshot_params(reference.isel(snapshot=-1), like)
    assert params["w"].shape == (3, 3, N_FEATURES, N_HIDDEN)
    member = jax.tree.map(lambda leaf: leaf[2, 1], params)
    loss = jnp.mean(jnp.log1p(jnp.exp(-TRAIN.data.y_test * apply(member, TRAIN.data.x_test))))
    np.testing.assert_allclose(loss, reference["test_loss"][2, 1, -1], rtol=1e-9)
    with pytest.raises(ValueError, match=r"`dataset` must hold the variable 'params\.u'"):
        snapshot_params(reference, {"u": 0.0})
    with pytest.raises(ValueError, match="`like` must have shapes of `dataset`"):
        snapshot_params(reference, {"w": np.zeros((5, 5))})


def test_settings_may_be_listed():
    found = ensemble(walk, 2, [{"scale": 1.0}, {"scale": 3.0}], execution=QUIET)
    assert found["end"].dims == ("setting", "seed", "end_0")
    np.testing.assert_allclose(found["end"][1], 3 * found["end"][0], rtol=1e-12)
    assert found["scale"].dims == ("setting",)


def test_static_values_are_compiled_group_by_group():
    def powers(degree):
        return lambda key, hparams: jnp.arange(1.0, degree + 1).prod() * hparams["scale"]

    found = ensemble(powers, 2, {"scale": [1.0, 10.0]}, static={"degree": [2, 3, 4]}, execution=QUIET)
    assert found["value"].dims == ("degree", "scale", "seed")
    np.testing.assert_array_equal(found["value"].sel(scale=10.0, seed=0), [20.0, 60.0, 240.0])


def test_static_values_may_change_the_shapes_of_parameters():
    def train(width):
        return small_train(model=mlp(1, width=width, depth=1), snapshots=())

    found = ensemble(train, 2, {"learning_rate": [0.1]}, static={"width": [2, 3]}, execution=QUIET)
    alone = ensemble(train(3), 2, {"learning_rate": [0.1]}, execution=QUIET)
    same(found.sel(width=3).drop_vars("width"), alone)
    with pytest.raises(ValueError, match=r"those of .*snapshot/params\.\S+ differ"):
        ensemble(
            lambda width: small_train(model=mlp(1, width=width)), 2, {"learning_rate": [0.1]}, static={"width": [2, 3]}
        )
    with pytest.raises(ValueError, match="leave the steps of records and snapshots alone"):
        ensemble(lambda n: small_train(records=(n,)), 2, {"learning_rate": [0.1]}, static={"n": [2, 3]})


class Counter:
    """A program of a user's own: no training, only steps."""

    n_steps, record_steps, snapshot_steps = 6, (0, 6), (3,)
    dims, attributes = {}, {"made by": "a test"}

    def prepare(self, key, hparams):
        return hparams["by"]

    def init(self, context):
        return jnp.zeros(())

    def advance(self, context, state, start, stop):
        return jax.lax.fori_loop(start, stop, lambda _, total: total + context, state)

    def observe(self, context, state, step):
        return state, {"total": state}

    def snapshot(self, state):
        return {"half": state}

    def finish(self, state):
        return {"end": state}

    def running(self, state):
        return jnp.asarray(True)


jax.tree_util.register_pytree_node(Counter, lambda counter: ((), None), lambda _, __: Counter())


def test_a_users_program_runs_in_segments():
    program: Program = Counter()
    found = ensemble(program, 2, {"by": [1.0, 2.5]}, execution=Execution(segment=2, progress=False))
    np.testing.assert_array_equal(found["total"].sel(by=2.5, seed=0), [0.0, 15.0])
    np.testing.assert_array_equal(found["half"].sel(by=2.5, seed=1), [7.5])
    np.testing.assert_array_equal(found["end"].sel(seed=0), [6.0, 15.0])
    assert found.attrs["made by"] == "a test"


def test_the_planner_fills_the_budget():
    members = make_members(64, {"learning_rate": [0.1]})
    plan = plan_chunk(TRAIN, members, 1e9)
    assert isinstance(plan, ChunkPlan)
    assert plan.chunk == 64
    # Parameters and Adam's two moments at least, in float64.
    assert plan.bytes_per_member > 3 * 8 * (N_FEATURES * N_HIDDEN + N_HIDDEN)
    assert plan.fixed_bytes >= TRAIN.data.x_train.nbytes
    budget = plan.fixed_bytes + 10.5 * plan.bytes_per_member
    tight = plan_chunk(TRAIN, members, budget)
    assert tight.chunk == 10
    assert tight.predicted_bytes <= budget
    with pytest.raises(GenjaxError, match="`memory_budget` is 1 bytes, but one member needs"):
        plan_chunk(TRAIN, members, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ensemble(3, 2), TypeError, "`fn` must be a function"),
        (lambda: ensemble(walk, 2, {"scale": [1.0]}, devices=[]), ValueError, "`devices` must name at least one"),
        (lambda: ensemble(walk, 2, {"scale": [1.0]}, resume=True), ValueError, "`directory` must be given"),
        (
            lambda: ensemble(lambda n: walk, 2, {"scale": [1.0]}, static={"scale": [1]}),
            ValueError,
            "`static` must name axes other than the hyper-parameters'",
        ),
        (
            lambda: ensemble(lambda n: walk, 2, {"scale": [1.0]}, static={"n": []}),
            ValueError,
            r"`static\['n'\]` must be a sequence",
        ),
        (
            lambda: ensemble(lambda n: lambda key, hp: jnp.zeros(n), 2, static={"n": [1, 2]}),
            ValueError,
            "`static` values must leave the shapes of results alone",
        ),
        (
            lambda: ensemble(walk, 2, {"scale": [1.0]}, dims={"path": ("time",)}, execution=QUIET),
            ValueError,
            r"`dims\['path'\]` must name 2 axes",
        ),
        (lambda: Execution(dispatch="pmap"), ValueError, "`dispatch` must be one of"),
        (lambda: Execution(chunk=0), ValueError, "`chunk` must be a positive whole number"),
    ],
)
def test_bad_arguments_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
