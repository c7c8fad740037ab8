"""Kill every process of emulated hosts, even if the program that started them was killed.

    python -m tpu.rehearsal.process_cleanup FOLDER

waits for the end of its standard input, then kills all processes of hosts with a home in FOLDER.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

HOME = "BERT_JAX_HOME"  # environment variable of every process of an emulated host


def processes(folder: Path) -> list[int]:
    """Return the ids of the processes of hosts whose home is `folder` or inside it."""
    variable = f"{HOME}={folder}"
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                variables = (entry / "environ").read_bytes().decode("utf-8", "replace").split("\0")
                if any(v == variable or v.startswith(f"{variable}/") for v in variables):
                    pids.append(int(entry.name))
    return pids


def kill(folder: Path) -> None:
    """Kill these processes until none is left."""
    while pids := processes(folder):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the parent process is what counts
    sys.stdin.buffer.read()
    kill(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
