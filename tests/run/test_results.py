"""Run directories and labelled results: what is written comes back, and nothing written before is lost."""

import dataclasses
import json
import math
import re
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import genjax
from genjax.errors import Status
from genjax.ntk import rbf
from genjax.run import (
    load_results,
    open_run,
    provenance,
    require_no_run,
    results,
    save_figure,
    save_results,
    to_json,
)
from genjax.tasks import make_task
from genjax.volume import gaussian_inductive_bias, inductive_bias_dataset


@dataclasses.dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Config:
    out: Path = Path("runs/here")
    errors: tuple[float, ...] = (0.1, math.inf)
    inner: Inner = Inner()
    name: str | None = None


@pytest.fixture(scope="module")
def curves():
    x = jnp.linspace(0, 1, 8)[:, None]
    task = make_task(x[::2], jnp.sin(3 * x[::2]), x[1::2], jnp.sin(3 * x[1::2]))
    # Error zero is at the floor, so every curve holds an infinity.
    return {f"length {s}": gaussian_inductive_bias(rbf(s), task, [0.1, 0.01, 0.0], noise=1e-4) for s in (0.3, 0.5)}


def dataset() -> xarray.Dataset:
    return xarray.Dataset(
        {"nats": (("space", "x"), [[1.5, math.inf], [-math.inf, math.nan]], {"units": "nats"})},
        coords={"space": ["RBF, length 1", "nœud"], "x": [1, 2]},
        attrs={"task": "digits", "n": 3, "scale": 0.5, "count": np.int64(7)},
    )


def test_results_come_back_as_saved(tmp_path):
    path = save_results(tmp_path, dataset())
    assert path == tmp_path / "results.nc"
    loaded = load_results(str(tmp_path))
    xarray.testing.assert_identical(loaded, dataset())
    assert loaded["space"].values.tolist() == ["RBF, length 1", "nœud"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.nc"]


def test_other_attributes_become_json(tmp_path):
    odd = {"given": ["a", "b"], "limit": (1, math.inf), "flag": True, "nothing": None, "config": Config()}
    save_results(tmp_path, dataset().assign_attrs(odd))
    attributes = load_results(tmp_path).attrs
    assert {name: json.loads(attributes[name]) for name in odd} == {
        "given": ["a", "b"],
        "limit": [1, "inf"],
        "flag": True,
        "nothing": None,
        "config": to_json(Config()),
    }


def test_saving_again_replaces(tmp_path):
    save_results(tmp_path, dataset())
    save_results(tmp_path, dataset().assign_attrs(task="wine"))
    assert load_results(tmp_path).attrs["task"] == "wine"


def test_interrupted_write_keeps_the_older_file(tmp_path, monkeypatch):
    save_results(tmp_path, dataset())

    def fail(self, path, **options):
        Path(path).write_bytes(b"half a fi")
        raise OSError("disk full")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match=r"^disk full$"):
        save_results(tmp_path, dataset().assign_attrs(task="wine"))
    monkeypatch.undo()
    xarray.testing.assert_identical(load_results(tmp_path), dataset())


def test_no_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"^`directory` {re.escape(str(tmp_path))} holds no results\.nc$"):
        load_results(tmp_path)


def test_open_run_writes_what_was_asked_and_where_it_ran(tmp_path):
    directory = open_run(str(tmp_path / "a" / "b"), Config())
    assert directory == tmp_path / "a" / "b"
    assert json.loads((directory / "config.json").read_text()) == {
        "out": "runs/here",
        "errors": [0.1, "inf"],
        "inner": {"sizes": [1, 2]},
        "name": None,
    }
    meta = json.loads((directory / "meta.json").read_text())
    assert set(meta) == set(provenance())
    assert {entry.name for entry in directory.iterdir()} == {"config.json", "meta.json"}


def test_open_run_refuses_to_overwrite(tmp_path):
    open_run(tmp_path, {"seed": 0})
    expected = rf"^{re.escape(str(tmp_path))} already holds a run; choose another directory$"
    with pytest.raises(FileExistsError, match=expected):
        open_run(tmp_path, {"seed": 1})
    with pytest.raises(FileExistsError, match=expected):
        require_no_run(tmp_path)
    require_no_run(tmp_path / "not yet there")
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 0}
    open_run(tmp_path, MappingProxyType({"seed": 2}), overwrite=True)
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 2}


def test_provenance():
    meta = provenance()
    assert meta["genjax"] == genjax.__version__
    assert meta["jax"] == jax.__version__
    assert meta["numpy"] == np.__version__
    assert meta["x64"] is True
    assert len(meta["devices"]) == jax.device_count()
    assert all(device.startswith(f"{jax.default_backend()}:") for device in meta["devices"])
    assert all(isinstance(word, str) for word in meta["command"])
    assert meta["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}", meta["git_commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["time_utc"])
    assert json.loads(json.dumps(meta, allow_nan=False)) == meta


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    results._git_commit.cache_clear()
    assert provenance()["git_commit"] is None
    results._git_commit.cache_clear()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.float32(-math.inf), "-inf"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, math.nan]]), [[1.0, "nan"]]),
        (jnp.array([1, 2]), [1, 2]),
        (jnp.array(math.inf), "inf"),
        (Path("a") / "b", "a/b"),
        ((1, [math.inf, {"k": (Path("c"), None)}]), [1, ["inf", {"k": ["c", None]}]]),
        ({1: True}, {"1": True}),
        (MappingProxyType({"a": np.array(2.0)}), {"a": 2.0}),
        (Inner((3,)), {"sizes": [3]}),
        (Status.IMPOSSIBLE, 1),
        ("text", "text"),
    ],
)
def test_to_json(value, expected):
    reduced = to_json(value)
    assert reduced == expected
    assert json.loads(json.dumps(reduced, allow_nan=False)) == expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=8,
    )
)
def test_to_json_is_strict_json_and_idempotent(value):
    reduced = to_json(value)
    assert json.loads(json.dumps(reduced, allow_nan=False)) == reduced == to_json(reduced)


def test_figure_is_written_twice(tmp_path):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0, 1])
    assert save_figure(tmp_path, "curve", figure) == tmp_path / "curve.png"
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curve.pdf").read_bytes().startswith(b"%PDF")


def test_dataset_labels_every_number(curves):
    labelled = inductive_bias_dataset(curves)
    assert labelled["space"].values.tolist() == list(curves)
    np.testing.assert_array_equal(labelled["target_error"], [0.1, 0.01, 0.0])
    assert labelled["target_error"].attrs["long_name"] == "mean squared error per test point and output"
    assert set(labelled.data_vars) == {
        *("nats", "bits", "stderr", "error_bound", "status"),
        *("log_evidence", "mean_error", "center_error", "floor", "noise", "n_train", "n_test"),
    }
    for name in ("nats", "bits", "stderr", "error_bound", "status"):
        assert labelled[name].dims == ("space", "target_error")
    for name in ("log_evidence", "mean_error", "center_error", "floor", "noise", "n_train", "n_test"):
        assert labelled[name].dims == ("space",)
    units = {name: labelled[name].attrs.get("units") for name in labelled.data_vars}
    assert {name for name, unit in units.items() if unit == "nats"} == {"nats", "stderr", "error_bound", "log_evidence"}
    assert {name for name, unit in units.items() if unit == "bits"} == {"bits"}


def test_dataset_holds_the_results(curves):
    labelled = inductive_bias_dataset(curves)
    for name, result in curves.items():
        row = labelled.sel(space=name)
        np.testing.assert_array_equal(row["nats"], result.nats)
        np.testing.assert_array_equal(row["bits"], result.bits)
        np.testing.assert_array_equal(row["status"], result.bias.status)
        for scalar in ("log_evidence", "mean_error", "center_error", "floor", "noise", "n_train", "n_test"):
            assert row[scalar] == getattr(result, scalar), scalar
    assert labelled.attrs["given"] == [result.bias.given for result in curves.values()]
    assert labelled.attrs["n_outputs"] == 1
    assert np.isinf(labelled["nats"].sel(target_error=0)).all()
    assert (labelled["status"].sel(target_error=0) == Status.IMPOSSIBLE).all()


def test_dataset_survives_the_file(curves, tmp_path):
    labelled = inductive_bias_dataset(curves)
    save_results(tmp_path, labelled)
    loaded = load_results(tmp_path)
    xarray.testing.assert_equal(loaded, labelled)
    assert {name: loaded[name].attrs for name in loaded.variables} == {
        name: labelled[name].attrs for name in labelled.variables
    }
    assert json.loads(loaded.attrs["given"]) == labelled.attrs["given"]


def test_dataset_of_one_target_error(curves):
    (name, result), *_ = curves.items()
    bias = jax.tree.map(lambda leaf: leaf[0], result.bias)
    one = dataclasses.replace(result, target_error=result.target_error[0], bias=bias)
    labelled = inductive_bias_dataset({name: one})
    assert labelled.sizes == {"space": 1, "target_error": 1}
    assert labelled["nats"].item() == result.nats[0]


def test_dataset_refuses_different_target_errors(curves):
    (name, result), *_ = curves.items()
    other = dataclasses.replace(result, target_error=result.target_error + 1)
    with pytest.raises(ValueError, match=r"^`results` must share their target errors, but these differ$"):
        inductive_bias_dataset({name: result, "other": other})


def test_dataset_refuses_nothing():
    with pytest.raises(ValueError, match=r"^`results` must hold at least one curve, but it is empty$"):
        inductive_bias_dataset({})
