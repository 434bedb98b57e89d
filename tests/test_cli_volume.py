"""``genjax volume`` in process: what it prints, what it writes, resuming, and one sentence for bad arguments."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.cli.volume import SIMULATION_STREAM, Volume, make_method, make_space, sentence
from genjax.errors import Status
from genjax.estimate import Estimate
from genjax.random import seed_key
from genjax.run import Execution, Interrupted, load_results
from genjax.tasks import load_task
from genjax.volume import (
    GuessAndCheck,
    HypothesisSpace,
    Nested,
    Splitting,
    Tempered,
    Trained,
    TrainedSpace,
    inductive_bias,
)
from tests.command import run

pytestmark = pytest.mark.usefixtures("command_surroundings")
SIZES = ("--classes", "3", "8", "--n-train", "4", "--n-test", "20", "--width", "3")
GUESS = ("volume", *SIZES, "--method", "guess_and_check", "--hypotheses", "2048", "--target-error", "0.3,0.05,0.4")


def test_guess_and_check_equals_the_library_and_writes_a_run():
    status, out, _ = run(*GUESS, "--out", "here", "--json")
    assert status == 0
    document = json.loads(out)
    command = Volume(classes=("3", "8"), n_train=4, n_test=20, width=3)
    task = load_task("digits", n_train=4, n_test=20, classes=(3, 8), encoding="plus_minus_one")
    expected = inductive_bias(
        make_space(command, task),
        task,
        [0.4, 0.3, 0.05],
        key=seed_key(0, SIMULATION_STREAM),
        error="zero_one_error",
        method=GuessAndCheck(n_hypotheses=2048),
        execution=Execution(progress=False),
    )
    # Counts are whole numbers; only a hypothesis within rounding of a tie could count otherwise in float32.
    np.testing.assert_allclose(document["log_fit"]["value"], float(expected.log_fit.value), atol=0.05)
    np.testing.assert_allclose(document["nats"][:2], expected.nats[:2], atol=0.1)
    assert document["target_error"] == pytest.approx([0.4, 0.3, 0.05])
    assert document["status"] == [Status(int(s)).name for s in expected.bias.status]
    assert document["n_hypotheses"] == 2048
    assert document["task"] == task.provenance
    dataset = load_results("here")
    np.testing.assert_allclose(dataset["nats"].sel(space="mlp"), [float(v) for v in document["nats"]])
    assert dataset.attrs["task"] == task.provenance
    files = {"config.json", "meta.json", "results.nc", "required_inductive_bias.png", "required_inductive_bias.pdf"}
    assert {path.name for path in Path("here").iterdir()} == files | {"simulation"}
    config = json.loads(Path("here/config.json").read_text())
    assert set(config) == {field.name for field in dataclasses.fields(Volume)}

    # A finished run is not overwritten; resumed, it is read, and says the same.
    status, _, err = run(*GUESS, "--out", "here", "--json")
    assert status == 2
    assert "here already holds a run" in err
    status, out, _ = run(*GUESS, "--out", "here", "--json", "--resume")
    assert status == 0
    assert json.loads(out)["nats"] == document["nats"]
    # Other options are another run, and the engine says so.
    status, _, err = run(*GUESS, "--out", "here", "--resume", "--seed", "1")
    assert status == 1
    assert "holds another run" in err


def test_a_walk_prints_a_table_and_a_sentence():
    small = ("--method", "nested", "--particles", "16", "--replicas", "3", "--moves", "1", "--target-error", "0.4")
    status, out, _ = run("volume", *SIZES, *small, "--no-save")
    assert status == 0
    assert out.startswith("digits from scikit-learn; 4 training and 20 test examples")
    assert "required inductive bias (nested), 4 training and 20 test points" in out
    assert re.search(r"^target error +nats +95 % interval +bits +status$", out, re.MULTILINE)
    assert re.search(r"^Beyond the 4 training points it takes .* test error <= 0\.4", out, re.MULTILINE)
    assert not Path("runs").exists()


def test_trained_hypotheses():
    arguments = ("--method", "trained", "--seeds", "8", "--steps", "20", "--lr", "0.05", "--target-error", "0.5")
    status, out, _ = run("volume", *SIZES, *arguments, "--no-save", "--json")
    document = json.loads(out)
    assert status == 0
    assert (document["method"], document["n_hypotheses"]) == ("trained", 8)
    assert "20 steps of adam on mlp, depth 1" in document["given"]


def test_an_interrupted_run_says_how_to_go_on(monkeypatch):
    def interrupted(*_, **options):
        options["directory"].mkdir(parents=True)
        raise Interrupted("stopped by SIGTERM", 15)

    with monkeypatch.context() as patch:
        patch.setattr("genjax.volume.inductive_bias", interrupted)
        status, _, err = run(*GUESS, "--out", "cut")
    assert status == 128 + 15
    assert "--out cut --resume" in err
    assert json.loads(Path("cut/config.json").read_text())["hypotheses"] == 2048
    status, _, err = run(*GUESS, "--out", "cut")
    assert (status, "already holds a run" in err) == (2, True)
    assert run(*GUESS, "--out", "cut", "--resume")[0] == 0
    assert Path("cut/results.nc").exists()


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (Volume(particles=32, replicas=3, moves=2), Splitting(32, 3, 2)),
        (Volume(method="tempered", moves=3), Tempered(n_moves=3)),
        (Volume(method="nested", particles=64), Nested(n_particles=64)),
        (Volume(method="guess_and_check", hypotheses=99), GuessAndCheck(99)),
        (Volume(method="trained", seeds=7, tail="pareto"), Trained(7, "pareto")),
    ],
    ids=lambda value: getattr(value, "method", None),
)
def test_options_become_settings_of_the_method(command, settings):
    assert make_method(command) == settings


@pytest.mark.parametrize("prior", ["gaussian", "uniform", "spherical", "sign"])
@pytest.mark.parametrize(("model", "dimension"), [("linear", 65), ("mlp", 64 * 5 + 5 + 5 + 1)])
def test_spaces_have_the_models_weights(prior, model, dimension):
    task = load_task("digits", n_train=4, n_test=20, classes=(3, 8), encoding="plus_minus_one")
    space = make_space(Volume(model=model, prior=prior, width=5), task)
    assert isinstance(space, HypothesisSpace)
    assert space.dimension == dimension
    assert space.prior.startswith(f"{prior} weights of {model}")
    assert space.apply_fn(space.sample(jax.random.key(0)), task.x_test).shape == (20, 1)
    assert isinstance(make_space(Volume(model=model, method="trained"), task), TrainedSpace)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--particles", "0"), "`--particles`|--particles must be"),
        (("--replicas", "1"), "--replicas must be at least 2, but 1 came"),
        (
            ("--method", "guess_and_check", "--particles", "8"),
            "--particles has no effect with --method guess_and_check",
        ),
        (("--hypotheses", "8"), "--hypotheses has no effect with --method splitting"),
        (("--model", "linear", "--depth", "3"), "--depth has no effect with --model linear"),
        (("--error", "squared_error"), "--fit-error must be positive for a continuous error"),
        (("--target-error", "-1"), "--target-error"),
        (("--resume",), "--resume needs the directory"),
        (("--resume", "--out", "nowhere"), "nowhere holds no run to resume"),
        (("--gain", "0"), "--gain must be"),
        (("--task", "no-such-task"), "no-such-task"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments_end_with_a_sentence_and_status_2(tmp_path, arguments, message):
    status, out, err = run("volume", *arguments)
    assert (status, out) == (2, "")
    assert re.search(message, err)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "fit_error", "words"),
    [
        (
            Status.OK,
            0.0,
            "Beyond the 4 training points it takes 2 nats (2.885 bits; 95 % interval 1 to 3 nats)",
        ),
        (Status.OK, None, "It takes 2 nats (2.885 bits; 95 % interval 1 to 3 nats) to pick"),
        (Status.DOUBTFUL, 0.0, "probability e^-2, if the simulation can be trusted, which its diagnostics doubt."),
        (Status.BOUND, 0.0, "it takes at least 2 nats (2.885 bits) to pick"),
        (Status.INVALID, 0.0, "No hypothesis that fits was found"),
    ],
)
def test_sentence_says_how_far_to_trust_the_last_row(status, fit_error, words):
    one = jnp.ones(1)
    bias = Estimate(2 * one, one, 0 * one, jnp.asarray([int(status)]), "a prior", (one, 3 * one))
    curve = SimpleNamespace(
        bias=bias, nats=bias.value, bits=bias.bits, target_error=0.1 * one, fit_error=fit_error, n_train=4
    )
    assert words in sentence(curve)
