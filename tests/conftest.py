"""Settings that must precede the first use of JAX or matplotlib, and the profile of property-based tests."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
os.environ["MPLBACKEND"] = "Agg"
# Threaded BLAS under batched solves on busy cores can wait for ever.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Iterator

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)

# Derandomized: a failure is a failure for everyone; compilation makes the first example slow, hence no deadline.
settings.register_profile("genjax", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("genjax")


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Programs compiled for a CPU hold memory maps, and a process may have only so many (65,530 on Linux)."""
    yield
    jax.clear_caches()
