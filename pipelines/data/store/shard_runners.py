"""Make the shards with processes of this machine; see also `beam_runner` and `dask_runner`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Literal

from bert_jax.runtime.errors import UserError
from pipelines.data.sources.corpora import Block, Corpus
from pipelines.data.store.shards import Job, cut, make_shard

Runner = Literal["local", "beam", "dask"]


def run_local(job: Job, corpus: Corpus, workers: int, on_block: Callable[[Block], None]) -> None:
    """Make all missing shards with `workers` processes.

    Args:
        job: The store.
        corpus: Its text.
        workers: Number of processes; 1 uses the current process.
        on_block: Called with every finished block.

    Raises:
        UserError: The text is invalid, or a process was killed.
    """
    # Each process uses one core; threads of the tokenizer would compete with them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    blocks = (block for number in range(len(corpus.sources)) for block in cut(job, corpus, number))
    if workers == 1:
        for block in blocks:
            make_shard(job, block)
            on_block(block)
        return
    try:
        _in_processes(job, blocks, workers, on_block)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps because memory ran out. Finished blocks are kept:"
            f" run the same command again, perhaps with fewer --workers than {workers}"
        ) from None


def _in_processes(
    job: Job, blocks: Iterator[Block], workers: int, on_block: Callable[[Block], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    # Workers exit when this pipe closes, so also when this process is killed.
    alive, parent = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _init_worker, (alive,))
    running: dict[Future[Any], Block] = {}
    try:
        for block in blocks:
            with _interrupts_held():
                running[pool.submit(make_shard, job, block)] = block
            # Few blocks wait, because a block of a compressed file carries its text.
            if len(running) > workers:
                _collect(running, on_block)
        while running:
            _collect(running, on_block)
    finally:
        parent.close()
        pool.shutdown(cancel_futures=True)


def _collect(running: dict[Future[Any], Block], on_block: Callable[[Block], None]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        block = running.pop(future)
        future.result()
        on_block(block)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C: a process that starts meanwhile never receives it, as it keeps the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(alive: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides

    def exit_with_parent() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
