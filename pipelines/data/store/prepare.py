"""Turn a corpus into a token store."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bert_jax.runtime.console import progress, say, summary
from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.corpora import Block, Corpus, open_corpus
from pipelines.data.store.assemble import assemble
from pipelines.data.store.beam_runner import run_beam
from pipelines.data.store.card import CARD
from pipelines.data.store.dask_runner import run_dask
from pipelines.data.store.diagnosis import warnings, warnings_of_copies
from pipelines.data.store.shard_runners import run_local
from pipelines.data.store.shards import RECORD, Job, Recipe, job_spec, read_record, write_json
from pipelines.data.store.token_store import (
    LEDGER,
    TOKENIZER,
    WORK,
    Ledger,
    Store,
    read_ledger,
)
from pipelines.data.tokenizers import tokenizer as tokenizers
from pipelines.folders import check_same, exclusive, own
from pipelines.json_files import read_json

SentenceMode = Literal["auto", "lines", "split"]

_JOB = "job.json"
# With fewer training tokens, the suggested config is that of a small network.
_MIN_TOKENS_OF_BASE = 100_000_000


def prepare(
    specs: Sequence[str],
    tokenizer_dir: Path,
    out: Path,
    held_out: float,
    *,
    sentences: SentenceMode = "auto",
    language: str = "en",
    min_characters: int = 0,
    deduplicate: bool = True,
    workers: int = 1,
    max_bad: float | None = None,
    beam: Sequence[str] | None = None,
    scheduler: str | None = None,
    bucket: str = "",
) -> Ledger:
    """Write the store `out`, or what is missing of it.

    Args:
        specs: Specifications of the corpus; see `registry`.
        tokenizer_dir: Folder of the tokenizer.
        out: Folder of the store.
        held_out: Fraction of the documents that is held out, in [0, 1).
        sentences: "lines" if every line is a sentence, "split" to split lines into sentences,
            "auto" to decide by the text.
        language: ISO 639 code for splitting; see `Recipe` for this and the next two.
        min_characters: Shorter documents are skipped.
        deduplicate: Skip exact copies of documents.
        workers: Number of processes.
        max_bad: Largest fraction of bad rows that may be skipped; None to stop at the first one.
        beam: Options of Apache Beam; None to use processes of this machine.
        scheduler: Address of the scheduler of a Dask cluster, to use its workers instead.
        bucket: URL of the store, through which the workers of Beam send their blocks.

    Returns:
        The content of ``ledger.json``: counts, digests and recipe of the store.

    Raises:
        BadArgumentsError: `held_out` is not in [0, 1).
        UserError: A wrong corpus or tokenizer, or `out` is another store.

    Source: ``create_pretraining_data.py`` of google-research/bert, for its text format.
    """
    started = time.monotonic()
    own(out, "--out", (LEDGER, WORK))
    corpus = open_corpus(*specs)
    tokenizer = tokenizers.load(tokenizer_dir)
    whole_lines = _whole_lines(corpus, sentences, language)
    recipe = Recipe(held_out, language, whole_lines, min_characters, deduplicate)
    job = Job(out, recipe, skip_bad_rows=max_bad is not None)
    spec = job_spec(corpus, recipe, tokenizer.digest)
    if (out / LEDGER).is_file():
        return _check_finished(out, spec)
    with _full_disk_explained(out), _work_folder(job, spec, tokenizer):
        _make_shards(job, corpus, tokenizer, workers, scheduler, beam, bucket)
        ledger = assemble(job, corpus, tokenizer, max_bad or 0.0)
    _report(ledger, out, started)
    return ledger


def _report(ledger: Ledger, out: Path, started: float) -> None:
    for line in warnings_of_copies(ledger.counts):
        say(f"warning: {line}")
    title = f"{out}: {_summary(ledger)}"
    summary(title, started, _next_command(ledger, out), described_in=out / CARD)


def _whole_lines(corpus: Corpus, sentences: SentenceMode, language: str) -> tuple[bool, ...]:
    """Return for every source whether its lines are sentences."""
    return tuple(
        sentences == "lines"
        or (sentences == "auto" and corpus.has_sentence_lines(number, language))
        for number in range(len(corpus.sources))
    )


def _next_command(ledger: Ledger, out: Path) -> list[str]:
    config = "tiny" if ledger.total("train", "tokens") < _MIN_TOKENS_OF_BASE else "bert_base"
    words = ["pretrain", "--config", config, "--data.store", str(out)]
    return [*words, "--run-dir", f"runs/{config}"]


@contextmanager
def _full_disk_explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # numpy reports a full disk without a number
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInputError(
            f"{out}: no space left on the disk; make room and run the same command again"
        ) from None


def _make_shards(
    job: Job,
    corpus: Corpus,
    tokenizer: tokenizers.Tokenizer,
    workers: int,
    scheduler: str | None,
    beam: Sequence[str] | None,
    bucket: str,
) -> None:
    if beam is not None:
        run_beam(job, corpus, beam, bucket)
        return
    with _progress(job, corpus, tokenizer) as on_block:
        if scheduler is not None:
            run_dask(job, corpus, scheduler, on_block)
        else:
            run_local(job, corpus, workers, on_block)


@contextmanager
def _work_folder(job: Job, spec: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> Iterator[None]:
    """Make and lock the work folder; an existing one must belong to the same command.

    If the input is wrong and nothing is finished, a new folder is removed again.
    """
    is_new = not job.store.exists()
    job.work.mkdir(parents=True, exist_ok=True)
    with exclusive(job.store):
        _remove_drafts(job.work)
        path = job.work / _JOB
        if path.is_file():
            check_same(read_json(path), spec, f"the unfinished {job.store}")
            finished = sum(1 for _ in job.work.glob(f"*/{RECORD}"))
            say(f"{job.store}: resuming after {finished} finished block(s)")
        else:
            tokenizer.save(job.work / TOKENIZER)
            write_json(path, spec)
        try:
            yield
        except BadInputError:
            _remove_if_empty(job, is_new)
            raise


@contextmanager
def _progress(
    job: Job, corpus: Corpus, tokenizer: tokenizers.Tokenizer
) -> Iterator[Callable[[Block], None]]:
    """Report the progress over the text and its speed; yield a function for finished blocks.

    After the first block, it also reports what looks wrong in the corpus.
    """
    # The size of compressed text is an estimate, so only the end reports 100%.
    total = corpus.size()
    names = [path.parent.name for path in job.work.glob(f"*/{RECORD}")]
    before = finished = sum(read_record(job.work, name)["characters"] for name in names)
    started = time.monotonic()
    with progress("text, MiB", max(1, total >> 20), min(before, total) >> 20) as update:

        def on_block(block: Block) -> None:
            nonlocal finished
            if finished == before:
                records = {block.name: read_record(job.work, block.name)}
                for line in warnings(records, corpus, tokenizer):
                    say(f"warning: {line}")
            finished += block.size
            update(min(finished, total - 1) >> 20, speed())

        def speed() -> str:
            return f"{(finished - before) / 1e6 / (time.monotonic() - started):.1f} MB/s"

        yield on_block
        update(max(1, total >> 20), speed())


def _remove_drafts(folder: Path) -> None:
    """Remove the drafts of processes that were killed."""
    for path in folder.glob("*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_if_empty(job: Job, is_new: bool) -> None:
    """Remove the folders of a failed job, unless they contain finished work."""
    if is_new and len(list(job.work.glob(f"*/{RECORD}"))) <= 1:
        for path in sorted(job.store.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        job.store.rmdir()


def _check_finished(out: Path, spec: dict[str, Any]) -> Ledger:
    """Verify an existing store; it must be the result of the same command."""
    ledger = read_ledger(out)
    made = {"corpus": ledger.corpus, "tokenizer": ledger.tokenizer, **ledger.recipe}
    check_same({**made, "files": ledger.files}, spec, str(out))
    Store(out).verify_all()
    with exclusive(out):  # an interruption after the ledger leaves the work folder
        shutil.rmtree(out / WORK, ignore_errors=True)
        _remove_drafts(out)
    say(f"{out}: already exists, {_summary(ledger)}")
    return ledger


def _summary(ledger: Ledger) -> str:
    parts = [
        f"{ledger.total(split, 'documents'):,} documents and {ledger.total(split, 'tokens'):,}"
        f" tokens ({split})"
        for split in ledger.splits
    ]
    if ledger.counts["duplicates"]:
        parts.append(f"{ledger.counts['duplicates']:,} duplicates skipped")
    if ledger.recipe["heldout"] and ledger.total("heldout", "documents") < 2:
        parts.append("too few held-out documents for evaluation, see --held-out")
    return ", ".join(parts)
