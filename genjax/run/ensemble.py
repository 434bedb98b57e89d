"""Any pure function over a labelled grid of seeds and hyper-parameters, in one program per device."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array

from genjax.run.checkpoint import Results, Store, check_same_run, raw_leaf
from genjax.run.dispatch import Slot, cpu_chunk, device_memory, lower_members, plan_chunk
from genjax.run.engine import FINAL, METRIC, SNAPSHOT, Execution, Group, named
from genjax.run.grid import Members, make_members
from genjax.run.preemption import catch_signals, wait_for_all
from genjax.run.program import Function, Program
from genjax.run.progress import Log
from genjax.run.results import (
    encode_attributes,
    load_results,
    open_run,
    provenance,
    require_no_run,
    save_results,
    to_json,
    write_json,
)

if TYPE_CHECKING:
    import xarray


def ensemble(
    fn: Callable[..., Any] | Program,
    keys: int | Array,
    hparams: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    *,
    static: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, tuple[str, ...]] | None = None,
    execution: Execution | None = None,
    devices: Sequence[jax.Device] | None = None,
    directory: str | Path | None = None,
    config: Any = None,
    resume: bool = False,
    log: Log | None = None,
) -> xarray.Dataset:
    """Run a pure function for every seed and every setting of its hyper-parameters.

    Members are cut into chunks of fixed width, padded at the end; a chunk is one ``vmap``, run segment by segment, and
    each device works on a chunk of its own until it is done, so memory does not grow with the number of members. One
    compilation per device serves all chunks and all values. A member's result depends on its key, its hyper-parameters
    and the chunk width alone: not, to the last bit, on its position, its neighbours, the number of devices or
    processes, the segments, or interruptions.

    With ``jax.distributed`` initialized, every process calls this alike, with a ``directory`` all of them share; chunks
    are dealt out to processes, and each returns the whole result.

    Args:
      fn: ``fn(key, hparams) -> array or dict of arrays``; or a :class:`Program`, which can be interrupted between
        steps, such as :func:`make_train` returns. With ``static``, a function of the static values that returns one.
      keys: number of seeds, or typed keys ``[s]``; every setting sees the same.
      hparams: mapping of names to values (their product), or a sequence of mappings (a list of settings). Traced, so
        one executable serves them all. Values may be arrays or pytrees with the axis in front.
      static: names and values of what changes shapes or code (width, depth); each combination is compiled once.
      dims: names for the axes of a plain function's results, ``{"curve": ("time",)}``.
      execution: chunk width, dispatch, segments, progress.
      devices: of this process; None: all of them.
      directory: where to keep the run: specification, finished chunks, checkpoints, a stream of metrics,
        ``results.nc``. SIGTERM and Ctrl-C then save and raise :class:`Interrupted`. None keeps nothing.
      config: what to write as ``config.json``; the specification by default.
      resume: go on with the run in ``directory``, to the result it would have had.
      log: ``log(line, values)`` called after each segment of each chunk, for other trackers.

    Returns:
      Dataset over the static axes, the hyper-parameters (or ``setting``) and ``seed``: recorded metrics over ``step``,
      snapshots over ``snapshot``, and what the function returned. Attributes hold configuration and provenance as JSON.

    Raises:
      TypeError: arguments of the wrong kind.
      ValueError: empty or inconsistent arguments.
      FileExistsError: ``directory`` already holds a run and ``resume`` is false.
      FileNotFoundError: ``resume`` is true and there is no run.
      GenjaxError: ``directory`` holds another run or a damaged file, or not even one member fits the memory budget.
      Interrupted: asked to stop by a signal; everything up to the last segment is saved.
    """
    execution = Execution() if execution is None else execution
    devices = jax.local_devices() if devices is None else list(devices)
    directory = None if directory is None else Path(directory)
    if not devices:
        raise ValueError("`devices` must name at least one device, but it is empty")
    if jax.process_count() > 1 and set(devices) != set(jax.local_devices()):
        raise ValueError("`devices` must be left out, or name all of this process's, where several share the work")
    if directory is None and (resume or jax.process_count() > 1):
        raise ValueError("`directory` must be given to resume, and where several processes share the work")
    if directory is not None and not resume:
        require_no_run(directory)
        wait_for_all("genjax: no run yet")
    members = make_members(keys, hparams)
    combinations = _combinations(static, members)
    programs = _programs(fn, combinations, dims)
    _check_results(programs, members)
    if resume and directory is not None and execution.chunk is None:
        execution = dataclasses.replace(execution, chunk=_stored_chunk(directory))
    chunk = execution.chunk or min(_widest(program, members, execution, devices) for program in programs)
    if directory is not None:
        specification = _specification(programs, members, static, chunk, execution, devices)
        if resume:
            check_same_run(directory, specification)
            if (directory / "results.nc").exists():
                return load_results(directory)
        elif jax.process_index() == 0:
            open_run(directory, specification if config is None else config)
            write_json(directory / "specification.json", specification)
        wait_for_all("genjax: run directory")
    with catch_signals(directory is not None) as received:
        parts = []
        for i, program in enumerate(programs):
            group = Group(
                program,
                members,
                chunk,
                _slots(program, execution, devices),
                _group_directory(directory, i, len(programs)),
                execution,
                log if len(programs) == 1 or log is None else _labelled(log, i),
            )
            parts.append(group.run(received, resume))
    dataset = _dataset(parts, programs, members, static)
    attributes = {"chunk": chunk, "dispatch": execution.dispatch, "provenance": provenance()}
    dataset.attrs = encode_attributes({**programs[0].attributes, **attributes})
    if directory is not None:
        if jax.process_index() == 0:
            save_results(directory, dataset)
            for i in range(len(programs)):
                Store(_group_directory(directory, i, len(programs)) or directory).clear()
        wait_for_all("genjax: results")
        return load_results(directory)
    return dataset


def _programs(
    fn: Any, combinations: Sequence[Mapping[str, Any]], dims: Mapping[str, tuple[str, ...]] | None
) -> list[Program]:
    """One for each combination of static values; without any, ``fn`` is the program or function itself."""
    return [_as_program(fn(**values) if values else fn, dims) for values in combinations]


def _as_program(fn: Any, dims: Mapping[str, tuple[str, ...]] | None) -> Program:
    if all(hasattr(fn, name) for name in ("prepare", "init", "advance", "observe", "finish", "n_steps")):
        return fn
    if not callable(fn):
        raise TypeError(f"`fn` must be a function (key, hparams) -> results or a Program, but {fn!r} came")
    return Function(fn, tuple((name, tuple(axes)) for name, axes in (dims or {}).items()))


def _combinations(static: Mapping[str, Sequence[Any]] | None, members: Members) -> list[dict[str, Any]]:
    if not static:
        return [{}]
    for name, values in static.items():
        if name in {*members.coords, *members.dims}:
            raise ValueError(f"`static` must name axes other than the hyper-parameters', but {name!r} is both")
        if isinstance(values, str) or not len(values):
            raise ValueError(f"`static[{name!r}]` must be a sequence of one or more values, but {values!r} came")
    return [dict(zip(static, values, strict=True)) for values in itertools.product(*static.values())]


def _slots(program: Program, execution: Execution, devices: Sequence[jax.Device]) -> list[Slot]:
    if execution.dispatch == "shard_map":
        return [Slot(program, devices)]
    return [Slot(program, [device]) for device in devices]


def _widest(program: Program, members: Members, execution: Execution, devices: Sequence[jax.Device]) -> int:
    """Default chunk width."""
    on_cpu = devices[0].platform == "cpu"
    share = -(-members.n // (len(devices) * jax.process_count()))
    largest = cpu_chunk(program, members) if on_cpu else share
    limit = device_memory(devices[0])
    budget = execution.memory_budget or (0.8 * limit if limit else None)
    if budget is None:
        return largest
    return plan_chunk(program, members, budget, largest=largest).chunk


def _stored_chunk(directory: Path) -> int | None:
    """The width a run was started with; None leaves the complaint to :func:`check_same_run`."""
    try:
        return int(json.loads((directory / "specification.json").read_text())["chunk"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _specification(
    programs: Sequence[Program],
    members: Members,
    static: Mapping[str, Sequence[Any]] | None,
    chunk: int,
    execution: Execution,
    devices: Sequence[jax.Device],
) -> dict[str, Any]:
    """Everything the bits of a result depend on, as JSON values; code and data by their digests."""
    rows = np.arange(chunk) % members.n
    code, data = hashlib.sha256(), hashlib.sha256()
    for program in programs:
        for lowered in lower_members(program, members.take(rows)):
            code.update(lowered.as_text().encode())
        _digest(data, program)
    inputs = hashlib.sha256()
    _digest(inputs, (members.keys, members.settings))
    return to_json(
        {
            "axes": dict(zip(members.dims, members.shape, strict=True)),
            "static": {name: [str(value) for value in values] for name, values in (static or {}).items()},
            "steps": [program.n_steps for program in programs],
            "records": [list(program.record_steps) for program in programs],
            "snapshots": [list(program.snapshot_steps) for program in programs],
            "chunk": chunk,
            "dispatch": execution.dispatch,
            # One executable spans them, so its bits may depend on their number.
            "devices": len(devices) if execution.dispatch == "shard_map" else None,
            "platform": devices[0].platform,
            "jax": jax.__version__,
            "keys and hyper-parameters": inputs.hexdigest(),
            "data": data.hexdigest(),
            "computation (model, optimizer, configuration)": code.hexdigest(),
        }
    )


def _digest(digest: Any, tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        raw = raw_leaf(leaf)
        digest.update(f"{raw.dtype}{raw.shape}".encode())
        digest.update(np.ascontiguousarray(raw).data)


def _group_directory(directory: Path | None, index: int, count: int) -> Path | None:
    if directory is None or count == 1:
        return directory
    return directory / f"group-{index}"


def _labelled(log: Log, group: int) -> Log:
    return lambda line, values: log(line, {"group": group, **values})


def _check_results(programs: Sequence[Program], members: Members) -> None:
    """Raise before the work, not after it, if results cannot be labelled or stacked."""
    if len(programs) == 1 and not programs[0].dims:
        return
    first, *others = (_shapes(program, members) for program in programs)
    for name, axes in programs[0].dims.items():
        if len(axes) != len(first.get(f"{FINAL}{name}", axes)):
            n = len(first[f"{FINAL}{name}"])
            raise ValueError(f"`dims[{name!r}]` must name {n} axes, but it is {axes}")
    if len({(program.record_steps, program.snapshot_steps) for program in programs}) > 1:
        raise ValueError("`static` values must leave the steps of records and snapshots alone, but theirs differ")
    for other in others:
        if differing := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
            raise ValueError(
                f"`static` values must leave the shapes of results alone, but those of {', '.join(sorted(differing))} "
                "differ (for parameters: leave out `snapshots`, or run one ensemble for each value)"
            )


def _shapes(program: Program, members: Members) -> dict[str, tuple[int, ...]]:
    """Shapes of one member's results by kind and name."""

    def results(key: Array, hparams: Any) -> Any:
        context = program.prepare(key, hparams)
        state = program.init(context)
        _, metrics = program.observe(context, state, jax.numpy.zeros((), int))
        kept = named(SNAPSHOT, program.snapshot(state)) if program.snapshot_steps else {}
        return named(METRIC, metrics) | kept | named(FINAL, program.finish(state))

    return {name: leaf.shape for name, leaf in jax.eval_shape(results, *members.take(np.array(0))).items()}


def _dataset(
    parts: Sequence[Results], programs: Sequence[Program], members: Members, static: Mapping[str, Sequence[Any]] | None
) -> xarray.Dataset:
    import xarray

    static = static or {}
    program = programs[0]
    grid, shape = (*static, *members.dims), (*(len(values) for values in static.values()), *members.shape)
    variables = {}
    for stored in parts[0]:
        values = np.stack([part[stored] for part in parts]).reshape(*shape, *parts[0][stored].shape[1:])
        kind, name = stored.split("/", 1)
        leading = {METRIC: ("step",), SNAPSHOT: ("snapshot",), FINAL: ()}[f"{kind}/"]
        axes = program.dims.get(name, ())
        unnamed = values.ndim - len(grid) - len(leading) - len(axes)
        variables[name] = ((*grid, *leading, *axes, *(f"{name}_{i}" for i in range(unnamed))), values)
    coords: dict[str, Any] = {name: (axis, labels) for name, (axis, labels) in members.coords.items()}
    for name, choices in static.items():
        plain = all(isinstance(choice, int | float | str) for choice in choices)
        coords[name] = list(choices) if plain else list(map(str, choices))
    if program.record_steps:
        coords["step"] = list(program.record_steps)
    if program.snapshot_steps:
        coords["snapshot"] = list(program.snapshot_steps)
    return xarray.Dataset(variables, coords=coords)
