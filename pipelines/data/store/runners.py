"""Who makes the shards: a pool of processes here, or Apache Beam."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

from bert_jax.runtime.errors import BadArgumentsError, UserError
from pipelines.data.sources.corpora import Block, Corpus
from pipelines.data.store.shards import Job, cut, make_shard


def run_local(job: Job, corpus: Corpus, workers: int, show: Callable[[Block], None]) -> None:
    """Makes all missing shards with `workers` processes.

    Args:
        job: The store.
        corpus: Its text.
        workers: Processes; 1 works in this one.
        show: Is called with every finished block.

    Raises:
        UserError: The text is bad, or a process was killed.
    """
    # Each process uses one core; the tokenizer's own threads would be in the others' way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    blocks = (block for number in range(len(corpus.sources)) for block in cut(job, corpus, number))
    if workers == 1:
        for block in blocks:
            make_shard(job, block)
            show(block)
        return
    try:
        _in_processes(job, blocks, workers, show)
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept: run"
            f" the same command again, perhaps with fewer --workers than {workers}"
        ) from None


def _in_processes(
    job: Job, blocks: Iterator[Block], workers: int, show: Callable[[Block], None]
) -> None:
    context = multiprocessing.get_context("spawn")
    # Workers end when this pipe closes, so also when this process is killed.
    alive, parent = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin_worker, (alive,))
    running: dict[Future[Any], Block] = {}
    try:
        for block in blocks:
            running[pool.submit(make_shard, job, block)] = block
            # Few wait, because a block of a compressed file carries its text.
            if len(running) > workers:
                _collect(running, show)
        while running:
            _collect(running, show)
    finally:
        parent.close()
        pool.shutdown(cancel_futures=True)


def _collect(running: dict[Future[Any], Block], show: Callable[[Block], None]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        block = running.pop(future)
        future.result()
        show(block)


def _begin_worker(alive: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides

    def end_with_parent() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def run_beam(job: Job, corpus: Corpus, options: Sequence[str]) -> None:
    """Makes all missing shards on Apache Beam.

    Every worker must see the text and the store under the same paths.

    Args:
        job: The store.
        corpus: Its text.
        options: Beam's own, such as ``--runner=FlinkRunner``.

    Raises:
        BadArgumentsError: Beam is not installed.
        UserError: Beam failed.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise BadArgumentsError(
            "--runner beam needs Apache Beam: pip install 'bert-jax[beam]'"
        ) from None
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Beam's default runner downloads a program, and its multi_threading mode lost records.
    given = list(options) or ["--runner=BundleBasedDirectRunner", "--direct_running_mode=in_memory"]
    try:
        with beam.Pipeline(options=PipelineOptions(given)) as pipeline:
            _ = (
                pipeline
                | "sources" >> beam.Create(range(len(corpus.sources)))
                | "cut" >> beam.FlatMap(lambda number: cut(job, corpus, number))
                | "spread" >> beam.Reshuffle()
                | "tokenise" >> beam.Map(lambda block: make_shard(job, block))
            )
    except UserError:
        raise
    except Exception as error:  # runners wrap what happened in errors of their own
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "InputError" in line), (lines or ["?"])[-1])
        raise UserError(f"Apache Beam with {' '.join(given)}: {reason.strip()[:300]}") from None
