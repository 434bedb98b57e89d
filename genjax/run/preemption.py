"""Stopping when asked to: signals of this process, and one decision for all processes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np

from genjax.errors import GenjaxError


class Interrupted(GenjaxError):
    """The run was asked to stop and has saved what it had; resume to go on.

    Attributes:
      signum: the signal that asked, or 0 if another process got it. ``128 + signum`` is the customary exit status.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class Received:
    """The signal that came, if any."""

    signum: int | None = None


@contextlib.contextmanager
def catch_signals(enabled: bool = True) -> Iterator[Received]:
    """Note SIGTERM and the first SIGINT instead of dying of them; a second SIGINT interrupts at once.

    Args:
      enabled: whether to catch anything. Only the main thread can.

    Yields:
      Where the signal is noted.
    """
    received = Received()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if received.signum is not None and signum == signal.SIGINT:
            signal.default_int_handler(signum, frame)
        received.signum = signum

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def any_process(*flags: bool) -> list[bool]:
    """Whether each flag is up on any process; all processes must ask together, and all get the same answer.

    Args:
      *flags: of this process.

    Returns:
      As many flags.
    """
    if jax.process_count() == 1:
        return list(flags)
    from jax.experimental import multihost_utils

    return [bool(flag) for flag in np.any(multihost_utils.process_allgather(np.array(flags)), axis=0)]


def wait_for_all(name: str) -> None:
    """Return once every process has come here.

    Args:
      name: of this place in the program.

    Returns:
      None.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
