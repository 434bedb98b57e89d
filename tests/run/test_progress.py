"""What is told between segments, on a terminal and elsewhere, and what a resumed stream forgets."""

import io
import json
import os
import signal
import threading

import numpy as np
import pytest

from genjax.run import Execution, Interrupted, ensemble, progress
from genjax.run.preemption import any_process, catch_signals
from genjax.run.progress import MetricStream, Progress, forget_lines
from tests.run.small import small_train


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_tell_share_rate_and_time_left(clock):
    stream = io.StringIO()
    shown = Progress(1000, 200, stream=stream)
    clock.now += 5
    shown.advance(100, "test_loss 0.5")
    assert stream.getvalue() == ""
    clock.now += 5
    shown.advance(100, "test_loss 0.25")
    # 200 of 800 in 10 seconds: 20 a second, 600 left.
    expected = "genjax:  40% of 1,000 member-steps, 20 a second, 30 s left, test_loss 0.25\n"
    assert stream.getvalue() == expected
    clock.now += 30
    shown.advance(600)
    shown.close()
    assert stream.getvalue().splitlines()[-1] == "genjax: 100% of 1,000 member-steps, 20 a second, 0 s left"


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    shown = Progress(1000, stream=stream)
    shown.advance(500, "test_loss 0.5")
    shown.close()
    assert "50%" in stream.getvalue()
    assert "member-steps" in stream.getvalue()


def test_nothing_is_told_when_not_wanted(capsys):
    shown = Progress(10, enabled=False)
    shown.advance(10)
    shown.close()
    assert capsys.readouterr() == ("", "")


def test_the_stream_is_json_and_the_hook_gets_the_same(tmp_path):
    heard = []
    stream = MetricStream(tmp_path / "metrics.jsonl", lambda line, values: heard.append((line, values)))
    stream.write({"chunk": 0, "step": 1, "test_loss": 0.5})
    stream.write({"chunk": 0, "step": 2, "test_loss": float("nan")})
    stream.close()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert found == [{"chunk": 0, "step": 1, "test_loss": 0.5}, {"chunk": 0, "step": 2, "test_loss": None}]
    assert [line for line, _ in heard] == [0, 1]
    assert heard[0][1]["test_loss"] == 0.5


def test_resuming_forgets_what_will_be_told_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"chunk": c, "step": s} for c in (0, 1, 2) for s in (5, 10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"chunk": 1, "st')
    forget_lines(path, finished={0}, steps={1: 5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:3]
    forget_lines(tmp_path / "none.jsonl", set(), {})


def test_the_engine_tells_of_every_segment(tmp_path, capsys):
    heard = []
    found = ensemble(
        small_train(),
        3,
        {"learning_rate": [0.05, 0.1]},
        execution=Execution(chunk=4, segment=4),
        directory=tmp_path / "run",
        log=lambda line, values: heard.append(values),
    )
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert told == heard
    assert sorted((line["chunk"], line["step"]) for line in told) == [(c, s) for c in (0, 1) for s in (4, 8, 12)]
    assert {line["chunk"]: (line["first_member"], line["members"]) for line in told} == {0: (0, 4), 1: (4, 2)}
    last = next(line for line in told if line["chunk"] == 1 and line["step"] == 12)
    np.testing.assert_allclose(last["test_loss"], found["test_loss"].values[1, 1:, -1].mean())
    assert "100% of 72 member-steps" in capsys.readouterr().err


def test_a_signal_in_this_process_interrupts_between_segments(tmp_path):
    before = signal.getsignal(signal.SIGINT)

    def ask(line, values):
        if line == 1:
            os.kill(os.getpid(), signal.SIGINT)

    execution = Execution(chunk=4, segment=4, progress=False)
    with pytest.raises(Interrupted, match=r"stopped by signal 2; .* resume to go on") as caught:
        ensemble(small_train(), 4, {"learning_rate": [0.1]}, execution=execution, directory=tmp_path / "run", log=ask)
    assert caught.value.signum == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_is_obeyed_at_once():
    with catch_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_signals_alone():
    seen = []

    def body():
        with catch_signals() as received:
            seen.append(received.signum)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [None]
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_process_decides_for_itself():
    assert any_process(True, False) == [True, False]
