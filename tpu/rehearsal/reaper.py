"""Ends every process of emulated machines, whatever became of the program that started them.

    python -m tpu.rehearsal.reaper FOLDER

waits until its standard input ends, and then kills all processes whose machine's home is in FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

HOME = "BERT_JAX_HOME"  # in the environment of everything that runs on an emulated machine


def processes(folder: Path) -> list[int]:
    """Those of the machines whose homes are `folder` or inside it."""
    mark = f"{HOME}={folder}"
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with suppress(OSError):
                variables = (place / "environ").read_bytes().decode("utf-8", "replace").split("\0")
                if any(v == mark or v.startswith(f"{mark}/") for v in variables):
                    found.append(int(place.name))
    return found


def kill(folder: Path) -> None:
    """Kills them until there is none."""
    while found := processes(folder):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main() -> None:
    """Runs the command."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the program, whose end is waited for
    sys.stdin.buffer.read()
    kill(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
