"""A small resumable run in a process of its own, to be killed: ``python -m tests.run.worker DIRECTORY [options]``."""

import argparse
import os
import sys

STEPS, SEGMENT, SEEDS = 300, 10, 10


def train():
    """A tiny classifier on made-up data, and its grid; one learning rate diverges."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from genjax.models import from_functions
    from genjax.run import TrainConfig, make_train
    from genjax.tasks import make_task

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = np.sign(x[:, :1] * x[:, 1:2])
    task = make_task(x[:40], y[:40], x[40:], y[40:], kind="classification", encoding="plus_minus_one")

    def init(key):
        a, b = jax.random.split(key)
        return {"w": jax.random.normal(a, (4, 6)) / 2, "v": jax.random.normal(b, (6, 1)) / 3}

    model = from_functions(init, lambda params, x: jnp.tanh(x @ params["w"]) @ params["v"])
    config = TrainConfig(steps=STEPS, batch_size=16, records=30, snapshots=(STEPS,))
    return make_train(model, task, lambda hp: optax.adam(hp["learning_rate"]), config), {"learning_rate": [0.01, 1e30]}


def main() -> int:
    """Run or resume; exit 143 when stopped by SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--dispatch", default="per_device")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={options.devices}"

    import jax

    if options.processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{options.port}", options.processes, options.process)

    from genjax.run import Execution, Interrupted, ensemble

    program, hparams = train()
    execution = Execution(segment=SEGMENT, progress=False, dispatch=options.dispatch, chunk=options.chunk)
    print("ready", flush=True)
    try:
        ensemble(program, SEEDS, hparams, execution=execution, directory=options.directory, resume=options.resume)
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main())
