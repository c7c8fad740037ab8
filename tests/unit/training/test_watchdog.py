"""A process that makes no progress ends itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from bert_jax.runtime.errors import HungError
from support.commands import ROOT

SLEEPER = """
import sys, time
from bert_jax.training.watchdog import Watchdog
with Watchdog(float(sys.argv[1])) as watchdog:
    for step in range(int(sys.argv[2])):
        time.sleep(0.1)
        watchdog.beat(step)
    print("waiting", flush=True)
    time.sleep(float(sys.argv[3]))
print("done")
"""


def sleeper(limit: float, steps: int, silence: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(limit), str(steps), str(silence)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_steps_keep_it_alive_and_silence_ends_it_with_a_traceback() -> None:
    process = sleeper(limit=1, steps=20, silence=60)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (HungError.exit_code, "waiting\n")
    assert HungError.exit_code == 70
    assert "no step was done for 1 seconds (train.hang_timeout)" in err
    assert 'File "<string>", line 9' in err  # the sleep


def test_without_a_limit_and_after_the_end_nothing_happens() -> None:
    process = sleeper(limit=0, steps=1, silence=1)
    assert process.communicate(timeout=20)[0] == "waiting\ndone\n"


def test_the_first_step_may_take_three_times_as_long() -> None:
    process = sleeper(limit=1, steps=0, silence=2)
    assert process.communicate(timeout=20)[0] == "waiting\ndone\n"
    process = sleeper(limit=1, steps=0, silence=60)
    process.communicate(timeout=20)
    assert process.returncode == HungError.exit_code


def test_a_process_that_was_stopped_is_not_hung() -> None:
    process = sleeper(limit=2, steps=1, silence=1)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=20)[0] == "done\n"
    assert process.returncode == 0
