"""The same members trained in different ways: the ensemble engine, JAX without it, and PyTorch."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from genjax.models import Model, mlp
from genjax.random import seed_keys
from genjax.run import Execution, Train, TrainConfig, ensemble, make_train
from genjax.tasks import Task, load_task

NO_TORCH = "PyTorch is not installed here, so rows (c) and (d) are skipped"

Run = Callable[[], np.ndarray]
"""Trains all members and returns their final test losses, learning rates slowest, seeds fastest."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much each way has to do.

    Attributes:
      width: hidden units, H.
      batch_size: examples per step.
      steps: steps per member.
      n_seeds: seeds.
      n_rates: learning rates, crossed with the seeds.
      n_train: training examples.
      n_test: test examples.
      chunk: members side by side in one ``vmap``, the engine's own choice for this many; None leaves it the choice.
    """

    width: int
    batch_size: int
    steps: int
    n_seeds: int = 8
    n_rates: int = 8
    n_train: int = 1297
    n_test: int = 500
    chunk: int | None = 8


# Long enough that what is done once a call does not count; ``MANY`` is short, so that it does.
SMALL = Size(width=32, batch_size=32, steps=400, chunk=32)
LARGE = Size(width=128, batch_size=128, steps=200)
MANY = dataclasses.replace(SMALL, steps=100, n_seeds=128)


class Problem(NamedTuple):
    """What all ways share.

    Attributes:
      size: how much there is to do.
      task: digits.
      model: the perceptron.
      train: training as the engine sees it.
      seeds: typed keys ``[n_seeds]``.
      rates: ``float32[n_rates]``, learning rates.
    """

    size: Size
    task: Task
    model: Model
    train: Train
    seeds: Array
    rates: np.ndarray

    def members(self) -> tuple[Array, np.ndarray]:
        """Key and learning rate of every member."""
        rate, seed = np.divmod(np.arange(len(self.rates) * len(self.seeds)), len(self.seeds))
        return self.seeds[seed], self.rates[rate]


def make_problem(size: Size) -> Problem:
    task = load_task("digits", n_train=size.n_train, n_test=size.n_test)
    model = mlp(task.n_outputs, width=size.width, depth=1)
    config = TrainConfig(size.steps, size.batch_size, order="independent", records=(size.steps,))
    train = make_train(model, task, _adam, config)
    rates = np.geomspace(1e-3, 1e-2, size.n_rates).astype(np.float32)
    return Problem(size, task, model, train, seed_keys(0, size.n_seeds), rates)


def _adam(hparams: Mapping[str, Any]) -> optax.GradientTransformation:
    return optax.adam(hparams["learning_rate"])


def engine(problem: Problem) -> Run:
    execution = Execution(chunk=problem.size.chunk, progress=False)

    def run() -> np.ndarray:
        grid = {"learning_rate": problem.rates}
        dataset = ensemble(problem.train, problem.seeds, grid, execution=execution, devices=jax.local_devices()[:1])
        return dataset["test_loss"].values.ravel()

    return run


class HandWritten(NamedTuple):
    """One member without the engine: no masks, no checks, no records on the way.

    Attributes:
      init: ``key -> (params, opt_state)``, from the member's key and learning rate.
      step: one update.
      final: metrics of the parameters.
      whole: from key and learning rate to the metrics.
    """

    init: Callable[..., Any]
    step: Callable[..., Any]
    final: Callable[..., dict[str, Array]]
    whole: Callable[..., dict[str, Array]]


def hand_written(
    problem: Problem,
    start: Callable[[Array], Any] | None = None,
    draw: Callable[[Array, Array], Array] | None = None,
) -> HandWritten:
    """The run as one would write it with JAX and optax alone.

    Args:
      problem: what to train.
      start: initial parameters from the member's key; the model's own by default.
      draw: rows of a batch from the member's key and the step; independent ones by default.

    Returns:
      The member's functions.
    """
    task, apply, size = problem.task, problem.model.apply, problem.size
    start = start or (lambda key: problem.model.init(key, task.x_train)[0])
    shape = (size.batch_size,)
    draw = draw or (lambda key, step: jax.random.randint(jax.random.fold_in(key, step), shape, 0, task.n_train))

    def loss(params: Any, x: Array, y: Array) -> Array:
        return jnp.mean(optax.softmax_cross_entropy(apply(params, (), x)[0], y))

    def init(key: Array, rate: Array) -> Any:
        params = start(key)
        return params, optax.adam(rate).init(params)

    def step(state: Any, key: Array, rate: Array, i: Array) -> Any:
        params, opt_state = state
        rows = draw(key, i)
        gradient = jax.grad(loss)(params, jnp.asarray(task.x_train)[rows], jnp.asarray(task.y_train)[rows])
        updates, opt_state = optax.adam(rate).update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def final(params: Any) -> dict[str, Array]:
        metrics = {}
        for part, x, y in (("train", task.x_train, task.y_train), ("test", task.x_test, task.y_test)):
            outputs = apply(params, (), x)[0]
            metrics[f"{part}_loss"] = jnp.mean(optax.softmax_cross_entropy(outputs, y))
            metrics[f"{part}_error"] = jnp.mean(jnp.argmax(outputs, -1) != jnp.argmax(y, -1))
        return metrics

    def whole(key: Array, rate: Array) -> dict[str, Array]:
        steps = jnp.arange(size.steps)
        (params, _), _ = jax.lax.scan(lambda s, i: (step(s, key, rate, i), None), init(key, rate), steps)
        return final(params)

    return HandWritten(init, step, final, whole)


def hand_written_scan(problem: Problem, hand: HandWritten) -> Run:
    """Under ``vmap``, chunk by chunk: the engine without the engine."""
    whole = jax.jit(jax.vmap(hand.whole))
    keys, rates = problem.members()

    def run() -> np.ndarray:
        width = problem.size.chunk or len(rates)
        chunks = [slice(i, i + width) for i in range(0, len(rates), width)]
        return _test_losses([whole(keys[chunk], rates[chunk]) for chunk in chunks])

    return run


def sequential(problem: Problem, hand: HandWritten) -> Run:
    whole = jax.jit(hand.whole)
    keys, rates = problem.members()
    return lambda: _test_losses([whole(key, rate) for key, rate in zip(keys, rates, strict=True)])


def sequential_train(problem: Problem) -> Run:
    """Our own ``train``, with everything it watches over."""
    whole = jax.jit(lambda key, rate: problem.train(key, {"learning_rate": rate}).history)
    keys, rates = problem.members()
    return lambda: _test_losses([whole(key, rate) for key, rate in zip(keys, rates, strict=True)])


def step_by_step(problem: Problem, hand: HandWritten, *, donate: bool) -> Run:
    """A Python loop over one jitted step, which may write its result where it read."""
    init, step, final = jax.jit(hand.init), jax.jit(hand.step, donate_argnums=0 if donate else ()), jax.jit(hand.final)
    keys, rates = problem.members()

    def member(key: Array, rate: np.ndarray) -> dict[str, Array]:
        state = init(key, rate)
        for i in range(problem.size.steps):
            state = step(state, key, rate, i)
        return final(state[0])

    return lambda: _test_losses([member(key, rate) for key, rate in zip(keys, rates, strict=True)])


def _test_losses(metrics: list[dict[str, Array]]) -> np.ndarray:
    return np.concatenate([np.atleast_1d(found["test_loss"]) for found in jax.device_get(metrics)])


def torch_missing() -> str | None:
    return None if importlib.util.find_spec("torch") else NO_TORCH


def torch_ways(
    problem: Problem,
    start: Callable[[int], Mapping[str, np.ndarray]] | None = None,
    draw: Callable[[int], np.ndarray] | None = None,
) -> dict[str, Run]:
    """Plain PyTorch and ``torch.func``, on one thread.

    Args:
      problem: what to train.
      start: initial parameters of a member: ``0.weight [H, 64]``, ``0.bias``, ``2.weight``, ``2.bias``; by default
        PyTorch's own.
      draw: rows of every member's batch in a step, ``int[members, b]``; independent ones by default.

    Returns:
      The two runs.
    """
    torch = importlib.import_module("torch")
    func = importlib.import_module("torch.func")
    torch.set_num_threads(1)
    size, n = problem.size, len(problem.members()[1])
    rates = torch.tensor(problem.members()[1])
    data = {
        part: (torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y).argmax(1)))
        for part, x, y in (
            ("train", problem.task.x_train, problem.task.y_train),
            ("test", problem.task.x_test, problem.task.y_test),
        )
    }
    x_train, y_train = data["train"]
    cross_entropy = torch.nn.functional.cross_entropy

    def network(member: int) -> Any:
        layers = torch.nn.Linear(64, size.width), torch.nn.ReLU(), torch.nn.Linear(size.width, 10)
        made = torch.nn.Sequential(*layers)
        if start is not None:
            made.load_state_dict({name: torch.tensor(value) for name, value in start(member).items()})
        return made.to(x_train.dtype)

    def final(outputs: Callable[[Any], Any]) -> float:
        """All four metrics, of which one is kept."""
        with torch.no_grad():
            for x, y in data.values():
                found = outputs(x)
                loss, _ = cross_entropy(found, y), (found.argmax(-1) != y).float().mean()
        return float(loss)

    def plain() -> np.ndarray:
        losses = []
        for member in range(n):
            net = network(member)
            optimizer = torch.optim.Adam(net.parameters(), lr=float(rates[member]))
            for i in range(size.steps):
                rows = (
                    torch.randint(len(x_train), (size.batch_size,)) if draw is None else torch.tensor(draw(i)[member])
                )
                optimizer.zero_grad()
                cross_entropy(net(x_train[rows]), y_train[rows]).backward()
                optimizer.step()
            losses.append(final(net))
        return np.array(losses)

    def stacked() -> np.ndarray:
        nets = [network(member) for member in range(n)]
        params = {name: value.detach() for name, value in func.stack_module_state(nets)[0].items()}
        mean = {name: torch.zeros_like(value) for name, value in params.items()}
        square = {name: torch.zeros_like(value) for name, value in params.items()}

        def loss(params: Any, x: Any, y: Any) -> Any:
            return cross_entropy(func.functional_call(nets[0], params, (x,)), y)

        gradients = func.vmap(func.grad(loss))
        for i in range(size.steps):
            rows = torch.randint(len(x_train), (n, size.batch_size)) if draw is None else torch.tensor(draw(i))
            for name, gradient in gradients(params, x_train[rows], y_train[rows]).items():
                # Adam with a learning rate for each member, in place.
                mean[name].mul_(0.9).add_(gradient, alpha=0.1)
                square[name].mul_(0.999).addcmul_(gradient, gradient, value=0.001)
                scale = (square[name] / (1 - 0.999 ** (i + 1))).sqrt_().add_(1e-8)
                rate = (rates / (1 - 0.9 ** (i + 1))).view(-1, *[1] * (gradient.dim() - 1))
                params[name] -= rate * mean[name] / scale
        with torch.no_grad():
            outputs = func.vmap(lambda p, x: func.functional_call(nets[0], p, (x,)), (0, None))
            for x, y in data.values():
                found = outputs(params, x)
                losses = func.vmap(cross_entropy, (0, None))(found, y)
                _ = (found.argmax(-1) != y).float().mean(-1)
        return losses.numpy()

    return {"(c) plain PyTorch": plain, "(d) torch.func, all members": stacked}


def ways(problem: Problem) -> dict[str, Run]:
    hand = hand_written(problem)
    return {
        "engine": engine(problem),
        "hand-written vmapped scan": hand_written_scan(problem, hand),
        "(a) jitted run, hand-written": sequential(problem, hand),
        "(a) jitted run, our train": sequential_train(problem),
        "(b) jitted step in a loop": step_by_step(problem, hand, donate=False),
        "(b) the same, donating": step_by_step(problem, hand, donate=True),
        **({} if torch_missing() else torch_ways(problem)),
    }
