"""What a long run tells its owner between segments: a bar or plain lines, and a stream of metrics."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

Log = Callable[[int, Mapping[str, float]], None]
SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A bar on a terminal or in a notebook, otherwise a line now and then: throughput and the time left.

    Args:
      total: member-steps of the whole run (members if a member has no steps).
      done: of which were done before.
      unit: what is counted.
      enabled: whether to show anything.
      stream: where to; the standard error by default.
    """

    def __init__(
        self,
        total: int,
        done: int = 0,
        *,
        unit: str = "member-steps",
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._total, self._done, self._start, self._unit = total, done, done, unit
        self._began = self._spoke = time.monotonic()
        self._bar: Any = None
        self._lines = enabled
        if enabled and (self._stream.isatty() or "ipykernel" in sys.modules):
            from tqdm.auto import tqdm

            self._lines = False
            self._bar = tqdm(total=total, initial=done, unit=f" {unit}", unit_scale=True, file=stream)

    def advance(self, amount: int, note: str = "") -> None:
        """Count work done; ``note`` is shown beside it."""
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif self._lines and time.monotonic() - self._spoke >= SECONDS_BETWEEN_LINES:
            self._say(note)

    def close(self) -> None:
        """Show the last state."""
        if self._bar is not None:
            self._bar.close()
        elif self._lines:
            self._say("")

    def _say(self, note: str) -> None:
        self._spoke = time.monotonic()
        seconds = max(self._spoke - self._began, 1e-9)
        rate = (self._done - self._start) / seconds
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "no estimate of the time left"
        share = self._done / self._total if self._total else 1.0
        words = [f"{share:4.0%} of {self._total:,} {self._unit}", f"{rate:,.0f} a second", left, note]
        print("genjax: " + ", ".join(word for word in words if word), file=self._stream, flush=True)


class MetricStream:
    """Lines of JSON, one a chunk and segment, appended as they come; resuming forgets what will be computed again.

    Args:
      path: the file; None writes none.
      log: called with the line's number and its values, for other trackers.
    """

    def __init__(self, path: Path | None, log: Log | None = None) -> None:
        self._file = None if path is None else path.open("a")
        self._log = log
        self._count = 0

    def write(self, line: Mapping[str, float]) -> None:
        """Append a line; numbers JSON lacks become null."""
        if self._file is not None:
            values = {
                name: value if value == value and abs(value) != float("inf") else None for name, value in line.items()
            }
            self._file.write(json.dumps(values) + "\n")
            self._file.flush()
        if self._log is not None:
            self._log(self._count, line)
        self._count += 1

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def forget_lines(path: Path, finished: Iterable[int], steps: Mapping[int, int]) -> None:
    """Drop lines of work that was lost and will be done again, and a last line cut short.

    Args:
      path: a stream written by :class:`MetricStream`; it need not exist.
      finished: chunks of which all lines stay.
      steps: by unfinished chunk, the step it is resumed from; later lines go.

    Returns:
      None.
    """
    if not path.exists():
        return
    whole = set(finished)
    kept = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["chunk"] in whole or line["step"] <= steps.get(line["chunk"], -1):
            kept.append(text + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept))
    os.replace(partial, path)
