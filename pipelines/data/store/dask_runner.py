"""Make the shards on a cluster of Dask: a scheduler and workers, on any number of machines.

Scheduler, workers and this process need the same packages, and the text and the store under the
same paths. The scheduler repeats the blocks of lost workers.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import bert_jax
from bert_jax.runtime.errors import BadArgumentsError, BadInputError, UnreachableError, UserError
from pipelines.data.sources.corpora import Block, Corpus
from pipelines.data.store.shards import RECORD, Job, cut, make_shard

# Seconds without a connection, without any worker, and until a shared folder shows a new file.
_PATIENCE = 30.0

# Packages that determine the tokens.
_PACKAGES = ("mwparserfromhell", "pyarrow", "sentencepiece", "sentencex", "tokenizers")


def run_dask(job: Job, corpus: Corpus, address: str, on_block: Callable[[Block], None]) -> None:
    """Make all missing shards on a cluster.

    Args:
        job: The store.
        corpus: Its text.
        address: Address of the scheduler, such as ``tcp://HOST:8786``.
        on_block: Called with every finished block.

    Raises:
        BadArgumentsError: Dask is not installed, or the address is wrong.
        UserError: The text is invalid, or the scheduler or all workers are lost.
    """
    try:
        import dask
        import distributed
    except ImportError:
        raise BadArgumentsError(
            "--runner dask needs dask.distributed: pip install 'bert-jax[dask]'"
        ) from None
    # It logs each failure before it raises it.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    # A block of a compressed file carries its text.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GiB"}):
        try:
            client = distributed.Client(address, timeout=_PATIENCE)
        except ValueError as error:
            raise BadArgumentsError(f"--scheduler {address}: {error}") from None
        except (OSError, CancelledError):
            raise UnreachableError(
                f"no Dask scheduler responds at {address}; start one with: dask scheduler"
                " --host HOST, and its workers with: dask worker ADDRESS"
            ) from None
        try:
            _Cluster(client, replace(job, store=job.store.absolute()), address).run(
                corpus, on_block
            )
        finally:
            client.close(timeout=1)


class _Cluster:
    """The blocks that a cluster works on."""

    def __init__(self, client: Any, job: Job, address: str) -> None:
        self.client = client
        self.job = job
        self.address = address
        self.running: dict[Any, Block] = {}

    def run(self, corpus: Corpus, on_block: Callable[[Block], None]) -> None:
        """Make the missing shards.

        Raises:
            UserError: See `run_dask`.
        """
        arguments = (self.job, str(Path.cwd()), _versions())
        try:
            for number in range(len(corpus.sources)):
                for block in cut(self.job, corpus, number):
                    with self._connection():
                        future = self.client.submit(_work, block, *arguments, pure=False)
                    self.running[future] = block
                    # One block waits; more would fill the memory of the scheduler.
                    while len(self.running) > self._threads():
                        self._collect(on_block)
            while self.running:
                self._collect(on_block)
        except UserError:
            self._finish()
            raise

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Explain the loss of the scheduler."""
        try:
            yield
        except (CancelledError, OSError):
            self.running.clear()
            raise UnreachableError(
                f"the Dask scheduler {self.address} was lost. Finished blocks are kept: start it"
                " and its workers, and run the same command again, or use another --runner"
            ) from None

    def _threads(self) -> int:
        with self._connection():
            return sum(self.client.nthreads().values())

    def _collect(self, on_block: Callable[[Block], None]) -> None:
        """Wait for a block.

        Raises:
            UserError: A block failed, or no worker is left.
        """
        from distributed import wait

        with self._connection():
            try:
                finished = wait(list(self.running), _PATIENCE, "FIRST_COMPLETED").done
            except TimeoutError:
                finished = set()
        if not finished and not self._threads():
            self.running.clear()
            raise UnreachableError(
                f"the Dask scheduler {self.address} has no workers; if they ended, see their logs."
                f" Finished blocks are kept: start workers with: dask worker {self.address}, and"
                " run the same command again"
            )
        for future in finished:
            block = self.running.pop(future)
            self._check(future, block)
            on_block(block)

    def _check(self, future: Any, block: Block) -> None:
        """Raise the error of a block."""
        from distributed import KilledWorker
        from distributed.comm import CommClosedError

        try:
            future.result()
        except (CancelledError, CommClosedError) as error:
            with self._connection():
                raise error
        except KilledWorker as error:
            raise UserError(
                f"block {block.name} ({block.origin}) ended {error.allowed_failures + 1} Dask"
                " workers, perhaps because memory ran out. Finished blocks are kept: start workers"
                " with more memory or fewer --nthreads, and run the same command again"
            ) from None
        except FileNotFoundError as error:
            raise BadInputError(
                f"a Dask worker has no {error.filename}; every worker needs the text and the store"
                " under the same paths as this machine"
            ) from None
        except (ImportError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "deserialization" not in str(error):
                raise
            raise BadInputError(
                f"the Dask scheduler {self.address} or a worker cannot load bert-jax"
                f" ({error.__cause__ or error}); install the same packages as on this machine"
                f" there: pip install 'bert-jax[dask]=={bert_jax.__version__}'"
            ) from None
        record = self.job.work / block.name / RECORD
        deadline = time.monotonic() + _PATIENCE
        while not record.is_file():  # network file systems show new files late
            if time.monotonic() > deadline:
                raise BadInputError(
                    f"a Dask worker wrote block {block.name}, but {record} does not exist here;"
                    " every worker needs the store under the same path as this machine"
                )
            time.sleep(0.2)

    def _finish(self) -> None:
        """Wait for blocks that workers still write."""
        from distributed import wait

        with suppress(CancelledError, OSError):
            wait(list(self.running))


def _versions() -> dict[str, str]:
    return {"bert-jax": bert_jax.__version__} | {name: metadata.version(name) for name in _PACKAGES}


def _work(block: Block, job: Job, folder: str, versions: dict[str, str]) -> None:
    """Make a shard in a worker.

    Raises:
        BadInputError: The worker has other packages, or other folders.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name, version in _versions().items():
        if version != versions[name]:
            raise BadInputError(
                f"Dask worker {os.uname().nodename} has {name} {version}, this machine"
                f" {versions[name]}; install the same version, or the tokens could differ"
            )
    if not job.work.is_dir():
        raise FileNotFoundError(2, "no such folder", str(job.work))
    # Names of files may be relative to the folder of the command.
    if Path(folder).is_dir():
        os.chdir(folder)
    # A repeated block may be finished: its worker was lost after that.
    if not (job.work / block.name / RECORD).is_file():
        make_shard(job, block)
