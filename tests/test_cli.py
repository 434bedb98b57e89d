"""The command line, in process: what it prints, what it writes, one sentence and status 2 for bad arguments."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

import genjax
import genjax.volume
from genjax import cli
from genjax.cli.bias import Bias, make_kernel
from genjax.errors import GenjaxError
from genjax.ntk import linear, rbf
from genjax.random import seed_key
from genjax.run import load_results
from genjax.tasks import ENCODINGS, SCALINGS, add_label_noise, add_noise_dimensions, load_task
from genjax.volume import gaussian_inductive_bias
from tests.command import run, written

pytestmark = pytest.mark.usefixtures("command_surroundings")
ROOT = Path(__file__).parents[1]
SIZES = ("--n-train", "40", "--n-test", "20")
SMALL = ("bias", "--space", "rbf", *SIZES)
ERRORS = (0.3, 0.1, 0.05, 0.03, 0.01)


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", n_train=40, n_test=20)


@pytest.fixture(scope="module")
def expected(digits):
    return gaussian_inductive_bias(rbf(1.0), digits, ERRORS)


def test_table_holds_nats_and_bits(tmp_path, digits, expected):
    status, out, err = run(*SMALL)
    assert (status, err) == (0, "")
    assert out.startswith(digits.provenance)
    assert re.search(r"^target error +nats +bits +nats/test pt +status$", out, re.MULTILINE)
    rows = re.findall(r"^ +(\S+) +(\S+) +(\S+) +(\S+) +OK$", out, re.MULTILINE)
    # The table prints six digits.
    np.testing.assert_allclose([float(r[1]) for r in rows], expected.nats, rtol=1e-5)
    np.testing.assert_allclose([float(r[2]) for r in rows], expected.nats / math.log(2), rtol=1e-5)
    np.testing.assert_array_equal([float(r[0]) for r in rows], ERRORS)
    nats, bits = float(expected.nats[-1]), float(expected.bits[-1])
    assert (
        f"Beyond the 40 training points it takes {nats:.4g} nats ({bits:.4g} bits) to pick a hypothesis of the rbf "
        f"space with test error <= 0.01: a random fitting hypothesis succeeds with probability e^-{nats:.4g}."
    ) in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"bias-digits-rbf-\d{8}-\d{6}", folder.name)
    for name in ("results.nc", "required_inductive_bias.png"):
        assert f"runs/{folder.name}/{name}\n" in out


def test_run_directory(tmp_path, digits, expected):
    assert run(*SMALL, "--out", "here/again")[0] == 0
    names = {"config.json", "meta.json", "results.nc", "required_inductive_bias.png", "required_inductive_bias.pdf"}
    assert written(tmp_path) == {f"here/again/{name}" for name in names}
    dataset = load_results("here/again")
    assert dataset.attrs["task"] == digits.provenance
    np.testing.assert_array_equal(dataset["nats"].sel(space="rbf"), expected.nats)
    config = json.loads(Path("here/again/config.json").read_text())
    assert config["n_train"] == 40
    assert config["out"] == "here/again"
    assert set(config) == {field.name for field in dataclasses.fields(Bias)}
    assert json.loads(Path("here/again/meta.json").read_text())["x64"] is True


def test_existing_run_is_refused_and_kept(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    status, out, err = run(*SMALL, "--out", "old")
    assert (status, out) == (2, "")
    assert err == "genjax bias: old already holds a run; choose another directory\n"
    assert written(tmp_path) == {"old/config.json"}
    assert (tmp_path / "old" / "config.json").read_text() == "{}"


def test_json_equals_the_library(tmp_path, digits, expected):
    status, out, _ = run(*SMALL, "--json", "--no-save")
    document = json.loads(out)
    assert status == 0
    assert document["bias"]["value"] == expected.nats.tolist()
    assert document["bits"] == expected.bits.tolist()
    assert document["bias"]["error_bound"] == expected.bias.error_bound.tolist()
    assert document["bias"]["status"] == ["OK"] * 5
    assert document["bias"]["given"] == expected.bias.given
    assert document["target_error"] == list(ERRORS)
    assert document["log_evidence"] == float(expected.log_evidence)
    assert (document["n_train"], document["n_test"], document["n_outputs"]) == (40, 20, 10)
    assert document["task"] == digits.provenance
    assert document["files"] == {}
    assert written(tmp_path) == set()


def test_json_names_the_files_and_the_impossible():
    status, out, _ = run(*SMALL, "--json", "--out", "r", "--target-error", "0,0.1")
    document = json.loads(out)
    assert status == 0
    assert document["target_error"] == [0.1, 0.0]
    assert document["bias"]["value"][1] == document["bits"][1] == "inf"
    assert document["bias"]["status"] == ["OK", "IMPOSSIBLE"]
    assert document["files"] == {"results": "r/results.nc", "figure": "r/required_inductive_bias.png"}
    assert all(Path(path).is_file() for path in document["files"].values())


@pytest.mark.parametrize(
    "words", [("0.1,0.05,0",), ("0.1", "0.05", "0"), ("0.1,0.05", "0"), ("0.1,", "0.05,", "0")], ids=range(4)
)
def test_numbers_are_separated_by_commas_or_spaces(words):
    assert tyro.cli(Bias, args=["--target-error", *words, "--depth", "1"]).target_error == (0.1, 0.05, 0)


def test_impossible_target_is_said_in_words():
    _, out, _ = run(*SMALL, "--no-save", "--target-error", "0.1", "0")
    assert (
        "No rbf hypothesis that fits the training data reaches a test error of 0: the floor of this space is 0" in out
    )


def test_noises_have_their_own_seeds(digits):
    noisy = add_noise_dimensions(seed_key(0, 0), digits, 4, 0.5)
    noisy = add_label_noise(seed_key(0, 1), noisy, 0.25)
    noise = ("--noise-dimensions", "4", "--noise-scale", "0.5", "--label-noise", "0.25")
    _, out, _ = run(*SMALL, "--no-save", "--json", *noise)
    document = json.loads(out)
    assert document["bias"]["value"] == gaussian_inductive_bias(rbf(1.0), noisy, ERRORS).nats.tolist()
    assert document["task"] == noisy.provenance


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_precision_is_the_one_asked_for(monkeypatch, precision):
    seen = []

    def look(kernel, task, *arguments, **options):
        seen.append(task.x_train.dtype)
        raise GenjaxError("seen enough")

    monkeypatch.setattr(genjax.volume, "gaussian_inductive_bias", look)
    assert run(*SMALL, "--precision", precision)[0] == 1
    assert seen == [precision]


def regression_data(n: int = 60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2))
    return x, np.sin(x[:, 0]) + x[:, 1]


LINEAR = ("bias", "--space", "linear", "--noise", "0.1", *SIZES, "--no-save", "--json", "--target-error", "2")


def test_csv_task(tmp_path):
    x, y = regression_data()
    lines = ["height,y,width", *(f"{a!r},{t!r},{b!r}" for (a, b), t in zip(x.tolist(), y.tolist(), strict=True))]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    status, out, err = run(*LINEAR, "--task", "mine.csv", "--target", "y", "--standardize-targets")
    assert status == 0, err
    task = load_task("mine.csv", n_train=40, n_test=20, target="y", standardize_targets=True)
    (value,) = gaussian_inductive_bias(linear(), task, [2.0], noise=0.1).nats
    assert json.loads(out)["bias"]["value"] == [value]


def test_npz_task_with_named_classes(tmp_path):
    x, _ = regression_data(90)
    np.savez(tmp_path / "mine.npz", x=x, y=np.array(["cat", "dog", "3"] * 30))
    options = ("--task", "mine.npz", "--classes", "3", "cat", "--encoding", "plus_minus_one")
    status, out, err = run(*LINEAR, *options)
    assert status == 0, err
    task = load_task("mine.npz", n_train=40, n_test=20, classes=["3", "cat"], encoding="plus_minus_one")
    (value,) = gaussian_inductive_bias(linear(), task, [2.0], noise=0.1).nats
    assert json.loads(out)["bias"]["value"] == [value]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--space", "matern", "--smoothness", "1"), "--smoothness must be one of 0.5, 1.5, 2.5, but 1.0 came"),
        (("--depth", "0"), "--depth must be a positive whole number, but 0 came"),
        (
            (*SIZES, "--space", "rbf", "--target-error", "-0.1"),
            "--target-error must be at least 0, but its smallest value is -0.1",
        ),
        ((*SIZES, "--space", "rbf", "--noise", "nan"), "--noise must be finite, but 1 of 1 values are not"),
        (("--task", "missing.csv"), "missing.csv: no such file"),
        (
            ("--n-train", "5000"),
            "--n-train + --n-test must be at most 1797, the examples in digits, but 5000 + 500 = 5500 came",
        ),
        (("--n-train", "0"), "--n-train must be a positive whole number, but 0 came"),
        (("--seed", "-1"), "--seed must be a whole number that is not negative, but -1 came"),
        (("--task", "nonsense"), "--task must be one of 'digits', "),
        (("--classes", "3"), "--classes must be a sequence of at least two different labels, but [3] came"),
        (("--classes", "3", "11"), "--classes must be among 0, 1, "),
        (("--label-noise", "2"), "--label-noise must be in [0, 1], but 2.0 came"),
        (("--target", "y"), "--target is for a user's file, so it must be None for digits, but 'y' came"),
        (
            ("--task", "wine", *SIZES, "--encoding", "plus_minus_one"),
            "--encoding 'plus_minus_one' needs exactly 2 classes, but there are 3: pick two with `classes=(a, b)`",
        ),
        (
            ("--space", "linear", "--n-train", "70", "--n-test", "20"),
            "the kernel matrix of the 70 training inputs plus --noise = 0 is singular to working precision: ",
        ),
    ],
)
def test_bad_value_is_one_sentence_and_nothing_is_written(tmp_path, arguments, sentence):
    status, out, err = run("bias", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"genjax bias: {sentence}")
    assert err.count("\n") == 1
    assert written(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bias", "--space", "cubic"), ("cubic", "--space")),
        (("bias", "--depth", "two"), ("two", "--depth")),
        (("bias", "--target-error", "0.1,x"), ("'x'", "--target-error")),
        (("bias", "--target-error"), ("at least one number", "--target-error")),
        (("bias", "--nonsense"), ("--nonsense",)),
        ((), ("bias", "train", "info")),
    ],
)
def test_bad_words_exit_with_two(tmp_path, arguments, words):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert all(word in err for word in words)
    assert "Traceback" not in err
    assert written(tmp_path) == set()


def test_failed_run_exits_with_one(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise GenjaxError("the contour missed the saddle; use more nodes")

    monkeypatch.setattr(genjax.volume, "gaussian_inductive_bias", fail)
    expected = (1, "", "genjax bias: the contour missed the saddle; use more nodes\n")
    assert run(*SMALL) == expected
    assert written(tmp_path) == set()
    with pytest.raises(GenjaxError):
        cli.main([*SMALL, "--debug"])


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError, match=r"^missing\.csv: no such file$"):
        cli.main(["bias", "--task", "missing.csv", "--debug"])


def test_help_mentions_every_option():
    status, out, _ = run("bias", "--help")
    assert status == 0
    options = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Bias)}
    assert options <= set(re.findall(r"--[a-z-]+", out))
    status, out, _ = run("--help")
    assert status == 0
    assert all(command in out for command in ("bias", "train", "info"))


def test_choices_are_the_librarys():
    hints = typing.get_type_hints(Bias)
    assert typing.get_args(hints["scaling"]) == SCALINGS
    encodings, _ = typing.get_args(hints["encoding"])
    assert (*typing.get_args(encodings), "none") == ENCODINGS


@pytest.mark.parametrize("space", typing.get_args(typing.get_type_hints(Bias)["space"]))
def test_every_space_has_a_kernel(space):
    x = np.array([[0.5, 1.0], [1.5, -1.0]])
    gram = np.asarray(make_kernel(Bias(space=space))(x, x))
    np.testing.assert_array_equal(gram, gram.T)
    assert (np.linalg.eigvalsh(gram) > 0).all()


def test_info_as_a_module(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "genjax", "info"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    information = json.loads(done.stdout)
    assert information["genjax"] == genjax.__version__
    assert information["jax"] == jax.__version__
    assert information["command"] == ["__main__.py", "info"]
