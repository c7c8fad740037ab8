"""Make the shards with Apache Beam.

Workers share the folder of the store with this machine, or, for a store in a bucket, nothing but
the bucket: they write finished blocks into ``BUCKET/work``, from where this machine fetches them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from bert_jax.runtime.errors import BadArgumentsError, UserError
from pipelines.data.sources import remote
from pipelines.data.sources.corpora import Block, Corpus
from pipelines.data.sources.locations import find
from pipelines.data.store.shards import RECORD, Job, cut, make_shard
from pipelines.data.store.token_store import TOKENIZER, WORK

# The default runner of Beam downloads a program, and its multi_threading mode lost records.
_DEFAULTS = ["--runner=BundleBasedDirectRunner", "--direct_running_mode=in_memory"]


def run_beam(job: Job, corpus: Corpus, options: Sequence[str], bucket: str = "") -> None:
    """Make all missing shards with Apache Beam.

    Args:
        job: The store.
        corpus: Its text; every worker must find it under the same names.
        options: Options of Beam, such as ``--runner=FlinkRunner``.
        bucket: URL of the store; empty if every worker has the folder of the store.

    Raises:
        BadArgumentsError: Beam is not installed.
        UserError: Beam failed.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not bucket:
        _run(options, corpus, lambda number: cut(job, corpus, number), lambda x: make_shard(job, x))
        return
    exchange = Exchange(bucket.rstrip("/"), job)
    exchange.publish_tokenizer()
    exchange.fetch()  # what an interrupted run has left
    finished = exchange.finished()
    _run(
        options,
        corpus,
        lambda number: exchange.cut(corpus, number, finished),
        exchange.make_shard,
    )
    exchange.fetch()
    remote.remove(exchange.work)


def _run(
    options: Sequence[str],
    corpus: Corpus,
    cut_source: Callable[[int], Iterator[Block]],
    make: Callable[[Block], Any],
) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise BadArgumentsError(
            "--runner beam needs Apache Beam: pip install 'bert-jax[beam]'"
        ) from None
    arguments = list(options) or _DEFAULTS
    try:
        with beam.Pipeline(options=PipelineOptions(arguments)) as pipeline:
            _ = (
                pipeline
                | "sources" >> beam.Create(range(len(corpus.sources)))
                | "cut" >> beam.FlatMap(cut_source)
                | "spread" >> beam.Reshuffle()
                | "tokenize" >> beam.Map(make)
            )
    except UserError:
        raise
    except Exception as error:  # runners wrap errors in their own
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "InputError" in line), (lines or ["?"])[-1])
        raise UserError(f"Apache Beam with {' '.join(arguments)}: {reason.strip()[:300]}") from None


@dataclass(frozen=True)
class Exchange:
    """Blocks that workers and this machine exchange in a bucket.

    Attributes:
        bucket: URL of the store.
        job: The store; its folder is on this machine.
    """

    bucket: str
    job: Job

    @property
    def work(self) -> str:
        """URL of the unfinished store."""
        return f"{self.bucket}/{WORK}"

    def publish_tokenizer(self) -> None:
        """Write the tokenizer into the bucket."""
        for path in sorted((self.job.work / TOKENIZER).iterdir()):
            remote.write(f"{self.work}/{TOKENIZER}/{path.name}", path)

    def finished(self) -> frozenset[str]:
        """Return the names of the blocks that this machine has."""
        return frozenset(path.parent.name for path in self.job.work.glob(f"*/{RECORD}"))

    def cut(self, corpus: Corpus, number: int, finished: frozenset[str]) -> Iterator[Block]:
        """Yield the unfinished blocks of source `number`, in a worker; see `shards.cut`."""
        names = []
        for block in corpus.blocks(number):
            names.append(block.name)
            if block.name not in finished:
                yield block
        with TemporaryDirectory() as folder:
            path = Path(folder) / "names.json"
            path.write_text(json.dumps(names) + "\n", "utf-8")
            remote.write(f"{self.work}/source-{number:02}.json", path)

    def make_shard(self, block: Block) -> None:
        """Tokenize a block in a worker, and write it into the bucket; its record comes last."""
        job = replace(self.job, store=_worker_folder(self.work))
        make_shard(job, block)
        folder = job.work / block.name
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == RECORD, path.name)):
            remote.write(f"{self.work}/{block.name}/{path.name}", path)
        shutil.rmtree(folder)

    def fetch(self) -> None:
        """Copy finished blocks, and the lists of their names, to this machine."""
        finished = self.finished()
        for entry in remote.entries(self.work):
            target = self.job.work / entry.name
            if not entry.is_folder:
                _copy(entry.url, target)
            elif entry.name not in finished and find(f"{entry.url.rstrip('/')}/{RECORD}"):
                draft = target.with_name(f"{entry.name}.{os.getpid()}.tmp")
                _copy_folder(entry.url, draft)
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)


@lru_cache(maxsize=1)
def _worker_folder(work: str) -> Path:
    """Return a folder of this worker that has the tokenizer, as in the folder of a store."""
    # Until the worker ends, which may be killed: the files of a block are removed at once.
    folder = Path(mkdtemp(prefix="bert-jax-"))
    _copy_folder(f"{work}/{TOKENIZER}", folder / WORK / TOKENIZER)
    return folder


def _copy_folder(url: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for entry in remote.entries(url):
        _copy(entry.url, folder / entry.name)


def _copy(url: str, path: Path) -> None:
    [file] = find(url)
    with file.open() as content, path.open("wb") as target:
        shutil.copyfileobj(content, target)
