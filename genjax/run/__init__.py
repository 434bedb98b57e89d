"""Running experiments: training as a pure function, ensembles over seeds and settings, and what they produce."""

from genjax.run.dispatch import ChunkPlan, plan_chunk
from genjax.run.engine import Execution
from genjax.run.ensemble import ensemble
from genjax.run.grid import Members, make_members
from genjax.run.preemption import Interrupted
from genjax.run.program import Program
from genjax.run.results import (
    load_results,
    open_run,
    provenance,
    require_no_run,
    save_figure,
    save_results,
    to_json,
)
from genjax.run.snapshots import snapshot_params
from genjax.run.train import MemberStatus, Train, TrainResult, make_train
from genjax.run.train_config import Stopping, TrainConfig, cross_entropy, squared_error, zero_one_error

__all__ = [
    "ChunkPlan",
    "Execution",
    "Interrupted",
    "MemberStatus",
    "Members",
    "Program",
    "Stopping",
    "Train",
    "TrainConfig",
    "TrainResult",
    "cross_entropy",
    "ensemble",
    "load_results",
    "make_members",
    "make_train",
    "open_run",
    "plan_chunk",
    "provenance",
    "require_no_run",
    "save_figure",
    "save_results",
    "snapshot_params",
    "squared_error",
    "to_json",
    "zero_one_error",
]
