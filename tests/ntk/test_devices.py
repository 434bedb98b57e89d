"""Four virtual devices give what one gives; in a process of its own, because devices are counted once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from genjax.ntk import empirical_ntk, gram_matrix, infinite, kernel_operator, ntk_operator, solve_psd
jax.config.update("jax_enable_x64", True)
assert len(jax.devices()) == 4
mesh = Mesh(np.array(jax.devices()), ("data",))
x = jax.random.normal(jax.random.key(0), (26, 5))
params = {"w": jax.random.normal(jax.random.key(1), (5, 7)), "v": jax.random.normal(jax.random.key(2), (7, 3))}
def net(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]
v = jax.random.normal(jax.random.key(3), (26, 3))
def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
empirical = Partial(empirical_ntk, Partial(net), params)
for kernel in (empirical, infinite.ntk(infinite.mlp(2, bias_variance=0.1))):
    close(gram_matrix(kernel, x, tile=3, mesh=mesh), kernel(x, x))
close(gram_matrix(empirical, x, x[:9] + 1, tile=3, mesh=mesh), empirical(x, x[:9] + 1))
close(kernel_operator(empirical, x, chunk=3, mesh=mesh) @ v, empirical(x, x) @ v)
one, four = (ntk_operator(net, params, x, chunk=3, mesh=m) for m in (None, mesh))
close(four @ v, one @ v)
close(solve_psd(four, v, ridge=1.0, tolerance=1e-13).value, solve_psd(one, v, ridge=1.0, tolerance=1e-13).value)
print("equal")
"""


def test_four_devices_equal_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.strip() == "equal", done.stderr
