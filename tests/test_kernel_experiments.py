"""Kernels of architectures on a task: the comparison, its figure, its experiment and its command."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import kernel_architectures
from genjax import plot
from genjax.errors import Status
from genjax.ntk import infinite, kare, kernel_regression, rbf
from genjax.run import load_results
from genjax.tasks import load_task
from genjax.volume import GramBlocks, gaussian_inductive_bias, gram_blocks, kernel_dataset, kernel_table
from tests.command import run, written

pytestmark = pytest.mark.usefixtures("no_figure_left_open", "command_surroundings")
SMALL = kernel_architectures.Config(n_train=20, n_test=15, only=("FC, depth 1", "CNN, depth 3"))
NOISE = 1e-2


@pytest.fixture(scope="module")
def digits():
    return load_task("digits", n_train=30, n_test=20)


@pytest.fixture(scope="module")
def dataset(digits):
    return kernel_dataset({"narrow": rbf(0.5), "wide": rbf(3.0)}, digits, [0.1, 0.05], noise=NOISE)


def test_comparison_holds_what_each_function_says(digits, dataset):
    kernel = rbf(3.0)
    blocks = gram_blocks(kernel, digits)
    wide = dataset.sel(space="wide")
    fit = kernel_regression(blocks.train, digits.y_train, NOISE)
    error = jnp.mean((fit.predict(blocks.cross.T) - digits.y_test) ** 2)
    np.testing.assert_allclose(wide["test_error"], error, rtol=1e-12)
    np.testing.assert_allclose(wide["log_evidence"], fit.log_marginal_likelihood, rtol=1e-9)
    np.testing.assert_allclose(wide["kare"], kare(blocks.train, digits.y_train, NOISE).mse / 10, rtol=1e-12)
    np.testing.assert_allclose(
        wide["nats"], gaussian_inductive_bias(kernel, digits, jnp.array([0.1, 0.05]), noise=NOISE).nats, rtol=1e-9
    )
    np.testing.assert_allclose(wide["log_evidence_bits"] * np.log(2), wide["log_evidence"], rtol=1e-12)


def test_training_paths_end_at_the_regression(dataset):
    """10^6 steps at half the maximal rate forget all but rates below 10^-6 of the largest."""
    np.testing.assert_allclose(dataset["test_path"][:, -1], dataset["test_error"], rtol=1e-6)
    np.testing.assert_allclose(dataset["train_path"][:, -1], dataset["train_error"], rtol=1e-6)
    np.testing.assert_allclose(dataset["cumulative_power"][:, -1], 1, rtol=1e-12)


def test_misclassified_points_are_counted_by_the_largest_output(digits, dataset):
    fit = kernel_regression(gram_blocks(rbf(0.5), digits).train, digits.y_train, NOISE)
    predicted = np.argmax(fit.predict(rbf(0.5)(digits.x_test, digits.x_train)), axis=1)
    wrong = np.mean(predicted != np.argmax(digits.y_test, axis=1))
    assert float(dataset["test_misclassified"].sel(space="narrow")) == pytest.approx(wrong)


def test_table_holds_nats_and_bits(dataset):
    text = kernel_table(dataset)
    wide = dataset.sel(space="wide")
    for number in (wide["nats"][0], wide["bits"][0], wide["log_evidence"], wide["log_evidence_bits"]):
        assert f"{float(number):.4g}" in text


def test_blocks_are_checked(digits):
    blocks = gram_blocks(rbf(1.0), digits)
    assert gram_blocks(blocks, digits).train.shape == (30, 30)
    with pytest.raises(ValueError, match=r"`space\.train` must have shape"):
        gram_blocks(GramBlocks(blocks.train[1:], blocks.cross, blocks.test), digits)
    with pytest.raises(TypeError, match="must be a kernel"):
        gram_blocks(3.0, digits)


def test_figures(dataset):
    for draw in (plot.kernel_power, plot.kernel_paths):
        assert [text.get_text() for text in draw(dataset).get_legend().get_texts()] == ["narrow", "wide"]
    assert len(plot.kernel_comparison(dataset).axes) == 3


def test_experiment_writes_everything(tmp_path, capsys):
    dataset = kernel_architectures.main(dataclasses.replace(SMALL, out=tmp_path / "run"))
    assert (tmp_path / "run" / "kernel_architectures.png").stat().st_size > 10_000
    numbers = json.loads((tmp_path / "run" / "golden.json").read_text())
    assert numbers == pytest.approx(kernel_architectures.golden(dataset))
    assert "leave 1 out" in capsys.readouterr().out
    assert (dataset["status"] == Status.OK).all()
    config = dataclasses.replace(SMALL, only=())
    assert {name.rpartition(":")[0] for name in kernel_architectures.GOLDEN} <= set(
        kernel_architectures.networks(config)
    )


@pytest.mark.slow
def test_golden_numbers(tmp_path):
    """Deterministic: what is left is rounding, magnified by condition numbers of about 1e6."""
    found = kernel_architectures.golden(kernel_architectures.main(kernel_architectures.Config(out=tmp_path / "run")))
    for name, value in kernel_architectures.GOLDEN.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_command(tmp_path):
    sizes = ("--n-train", "20", "--n-test", "15", "--target-error", "0.1,0.05", "--noise", NOISE)
    folder = tmp_path / "run"
    status, out, err = run("ntk", "--architectures", "mlp", "cnn_flatten", "--out", folder, *sizes)
    assert status == 0, err
    assert written(folder) >= {"config.json", "meta.json", "results.nc", "kernels.png"}
    stored = load_results(folder)
    task = load_task("digits", n_train=20, n_test=15)
    direct = kernel_dataset({"mlp": infinite.ntk(infinite.mlp(2))}, task, [0.1, 0.05], noise=NOISE)
    np.testing.assert_allclose(stored["nats"].sel(space="mlp"), direct["nats"].sel(space="mlp"), rtol=1e-6)
    assert f"{float(direct['nats'][0, 0]):.4g}" in out
    status, out, _ = run("ntk", "--kernel", "nngp", "--json", "--no-save", *sizes)
    assert status == 0
    assert json.loads(out)["data_vars"]["nats"]["dims"] == ["space", "target_error"]


def test_command_needs_images():
    status, _, err = run("ntk", "--task", "iris", "--architectures", "cnn", "--n-train", "20", "--n-test", "15")
    assert status == 2
    assert "--architectures cnn needs images" in err
