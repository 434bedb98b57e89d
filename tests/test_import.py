"""Importing genjax is cheap, changes nothing, and notices the unrelated distribution of the same name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import genjax

ROOT = Path(__file__).parents[1]


def run_python(code: str, *options: str, path: tuple[Path, ...] = (ROOT,)) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_ENABLE_X64", None)
    return subprocess.run(
        [sys.executable, *options, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )


def test_imports_are_light_and_leave_jax_as_it_was():
    code = """
import json, sys
import genjax
alone = sorted({name.split(".")[0] for name in sys.modules})
import genjax.volume, genjax.ntk, genjax.tasks, genjax.models, jax
loaded = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"alone": alone, "loaded": loaded, "x64": bool(jax.config.jax_enable_x64)}))
"""
    seen = json.loads(run_python(code).stdout)
    assert {"genjax", "jax"} <= set(seen["loaded"])
    assert not {"matplotlib", "xarray", "orbax", "flax", "sklearn", "h5py"} & set(seen["loaded"])
    assert not {"jax", "numpy"} & set(seen["alone"])
    assert seen["x64"] is False


def test_namesake_is_announced(tmp_path):
    information = tmp_path / "genjax-0.10.3.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: genjax\nVersion: 0.10.3\n")
    stderr = run_python("import genjax", path=(ROOT, tmp_path)).stderr
    assert "RuntimeWarning: the unrelated distribution 'genjax' 0.10.3 is installed beside" in stderr
    assert "Uninstall both, then install the one wanted." in stderr


def test_without_namesake_no_warning():
    assert run_python("import genjax", "-W", "error").stderr == ""


def test_submodules_load_on_first_use():
    code = "import sys, genjax; assert 'genjax.random' not in sys.modules; print(genjax.random.seed_key.__name__)"
    assert run_python(code).stdout == "seed_key\n"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match=r"^module 'genjax' has no attribute 'utils'$"):
        _ = genjax.utils


def test_dir_lists_what_exists():
    assert dir(genjax) == sorted(genjax.__all__)
    assert all(getattr(genjax, name) is not None for name in dir(genjax))
