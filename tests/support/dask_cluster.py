"""A cluster of Dask on this machine: a scheduler and workers, each a process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_address


class DaskCluster:
    """A scheduler and its workers.

    Attributes:
        address: Address of the scheduler.
        scheduler: Its process.
        workers: Processes of the workers, with one thread each.
    """

    def __init__(self, folder: Path, address: str, prefix: tuple[str, ...] = ()) -> None:
        self.address = address
        self._folder = folder
        host, port = address.removeprefix("tcp://").split(":")
        self.scheduler = self._start("scheduler", "--host", host, "--port", port, prefix=prefix)
        self.workers: list[subprocess.Popen[bytes]] = []

    def add_worker(self, prefix: tuple[str, ...] = ()) -> None:
        """Start a worker; `prefix` is a command that runs it."""
        options = ("--host", "127.0.0.1", "--no-nanny", "--nthreads", "1")
        local = ("--local-directory", str(self._folder))
        self.workers.append(self._start("worker", self.address, *options, *local, prefix=prefix))

    def wait_for_workers(self) -> None:
        """Wait until all workers are connected."""
        self.wait_for_log("Register worker", len(self.workers))

    def wait_for_log(self, words: str, times: int = 1) -> None:
        """Wait until the scheduler has logged `words` so many times."""
        path = self._folder / "scheduler.log"
        deadline = time.monotonic() + 60
        while (log := path.read_text("utf-8")).count(words) < times:
            assert time.monotonic() < deadline, log
            time.sleep(0.05)

    def close(self) -> None:
        """Kill all processes."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(
        self, kind: str, *options: str, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        command = (*prefix, sys.executable, "-m", "dask", kind, *options, "--no-dashboard")
        with (self._folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)


@contextmanager
def dask_cluster(folder: Path, workers: int, prefix: tuple[str, ...] = ()) -> Iterator[DaskCluster]:
    """Run a cluster that works and logs in `folder`; `prefix` is a command for its scheduler."""
    folder.mkdir()
    cluster = DaskCluster(folder, f"tcp://{free_address()}", prefix)
    try:
        cluster.wait_for_log("Scheduler at")
        for _ in range(workers):
            cluster.add_worker()
        cluster.wait_for_workers()
        yield cluster
    finally:
        cluster.close()
