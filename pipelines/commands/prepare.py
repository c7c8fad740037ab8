"""``bert-jax prepare``: turn a corpus into a token store."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bert_jax.runtime.console import progress, say, summary
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.paths import at
from pipelines.data.sources.corpora import CORPUS_HELP, Block, Corpus, open_corpus
from pipelines.data.store.assemble import assemble
from pipelines.data.store.card import CARD
from pipelines.data.store.runners import run_beam, run_local
from pipelines.data.store.shards import (
    RECORD,
    Job,
    Recipe,
    has_whole_lines,
    job_note,
    read_record,
    write_json,
)
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
from pipelines.models.formats.config_json import read_json
from pipelines.settings import ArgumentParser, command_parser, parse

JOB = "job.json"
# Training tokens; with fewer a small network is proposed.
_SMALL = 100_000_000


def _parser() -> ArgumentParser:
    parser = command_parser(
        "prepare",
        "Turns a corpus into a token store. Interrupted, the same command again goes on.",
    )
    parser.add_argument(
        "--corpus", action="append", required=True, metavar="SPEC", help=CORPUS_HELP
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="MODEL",
        help="folder from train-tokenizer, of a run, or with BERT's vocab.txt or tokenizer.json",
    )
    parser.add_argument("--out", required=True, metavar="STORE", help="folder to write")
    parser.add_argument(
        "--held-out", type=float, default=0.02, help="share of the documents kept for evaluation"
    )
    parser.add_argument(
        "--sentences",
        type=Literal["auto", "lines", "split"],
        default="auto",
        help="whether every line is a sentence, or has to be split; auto looks at the text",
    )
    parser.add_argument("--language", default="en", help="of the text, for splitting sentences")
    parser.add_argument(
        "--min-characters", type=int, default=0, help="shorter documents are left out"
    )
    parser.add_argument(
        "--keep-duplicates", action="store_true", help="keep documents that were there before"
    )
    parser.add_argument("--workers", type=int, default=_cores(), help="processes")
    parser.add_argument(
        "--runner",
        type=Literal["local", "beam"],
        default="local",
        help="processes here, or Apache Beam, whose options follow after --",
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    options = parse(_parser(), argv[:end])
    if argv[end + 1 :] and options.runner != "beam":
        raise BadArgumentsError(f"{argv[end + 1]!r} after -- is for --runner beam only")
    if options.workers < 1:
        raise BadArgumentsError(f"--workers must be at least 1, not {options.workers}")
    prepare(
        options.corpus,
        at(options.tokenizer),
        Path(options.out),
        options.held_out,
        sentences=options.sentences,
        language=options.language,
        min_characters=options.min_characters,
        deduplicate=not options.keep_duplicates,
        workers=options.workers,
        beam=argv[end + 1 :] if options.runner == "beam" else None,
    )


def prepare(
    specs: Sequence[str],
    tokenizer_dir: Path,
    out: Path,
    held_out: float,
    *,
    sentences: Literal["auto", "lines", "split"] = "auto",
    language: str = "en",
    min_characters: int = 0,
    deduplicate: bool = True,
    workers: int = 1,
    beam: Sequence[str] | None = None,
) -> Ledger:
    """Writes the store `out`, or what is missing of it.

    Args:
        specs: Of the corpus; see `corpora`.
        tokenizer_dir: Folder of the tokenizer.
        out: Folder of the store.
        held_out: Share of the documents that is held out, in [0, 1).
        sentences: Whether lines are sentences ("lines") or are split; "auto" looks at the text.
        language: ISO 639 code for splitting; see `Recipe` for this and the next two.
        min_characters: Shorter documents are left out.
        deduplicate: Leave out copies.
        workers: Processes.
        beam: Options of Apache Beam, to run on it.

    Returns:
        What ``ledger.json`` holds: counts, digests and recipe of the store.

    Raises:
        BadArgumentsError: `held_out` is no such share.
        UserError: A wrong corpus or tokenizer, or `out` is another store.

    Source: what google-research/bert's ``create_pretraining_data.py`` reads and cuts.
    """
    if not 0 <= held_out < 1:
        raise BadArgumentsError(f"--held-out must be in [0, 1), not {held_out}")
    started = time.monotonic()
    own(out, "--out", (LEDGER, WORK))
    corpus = open_corpus(*specs)
    tokenizer = tokenizers.load(tokenizer_dir)
    whole_lines = tuple(
        sentences == "lines" or (sentences == "auto" and has_whole_lines(corpus, number, language))
        for number in range(len(corpus.sources))
    )
    job = Job(out, Recipe(held_out, language, whole_lines, min_characters, deduplicate))
    note = job_note(corpus, job.recipe, tokenizer.digest)
    if (out / LEDGER).is_file():
        return _already_there(out, note)
    fresh = not out.exists()
    with _full_disk_explained(out), _locked(job, note, tokenizer):
        try:
            _make_shards(job, corpus, workers, beam)
            ledger = assemble(job, corpus, tokenizer)
        except BadInputError:
            _leave_nothing_behind(job, fresh)
            raise
    summary(f"{out}: {_summary(ledger)}", started, _then(ledger, out), described_in=out / CARD)
    return ledger


def _then(ledger: Ledger, out: Path) -> list[str]:
    """The command to run next."""
    config = "tiny" if ledger.total("train", "tokens") < _SMALL else "bert_base"
    then = ["pretrain", "--config", f"configs/{config}.yaml", "--data.store", str(out)]
    return [*then, "--run_dir", f"runs/{config}"]


@contextmanager
def _full_disk_explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # of numpy's full disk without a number
        if error.errno not in (None, errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadInputError(
            f"{out}: no space left on the disk; make room and run the same command again"
        ) from None


def _make_shards(job: Job, corpus: Corpus, workers: int, beam: Sequence[str] | None) -> None:
    if beam is not None:
        run_beam(job, corpus, beam)
        return
    with _shown(job, corpus) as show:
        run_local(job, corpus, workers, show)


@contextmanager
def _locked(job: Job, note: dict[str, Any], tokenizer: tokenizers.Tokenizer) -> Iterator[None]:
    """Makes the work folder, or checks that what is in it belongs to the same command."""
    job.work.mkdir(parents=True, exist_ok=True)
    with exclusive(job.store):
        _sweep(job.work)
        path = job.work / JOB
        if path.is_file():
            check_same(read_json(path), note, f"the unfinished {job.store}")
            finished = sum(1 for _ in job.work.glob(f"*/{RECORD}"))
            say(f"{job.store}: going on, {finished} finished block(s)")
        else:
            tokenizer.save(job.work / TOKENIZER)
            write_json(path, note)
        yield


@contextmanager
def _shown(job: Job, corpus: Corpus) -> Iterator[Callable[[Block], None]]:
    """Progress over the text, with its speed."""
    # The size of compressed text is a guess, which the end must not belie.
    total = corpus.size()
    names = [path.parent.name for path in job.work.glob(f"*/{RECORD}")]
    before = finished = sum(read_record(job.work, name)["characters"] for name in names)
    started = time.monotonic()
    with progress("text, MiB", max(1, total >> 20), min(before, total) >> 20) as update:

        def show(block: Block) -> None:
            nonlocal finished
            finished += block.size
            update(min(finished, total - 1) >> 20, speed())

        def speed() -> str:
            return f"{(finished - before) / 1e6 / (time.monotonic() - started):.1f} MB/s"

        yield show
        update(max(1, total >> 20), speed())


def _sweep(folder: Path) -> None:
    """Removes drafts of processes that were killed."""
    for path in folder.glob("*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _leave_nothing_behind(job: Job, fresh: bool) -> None:
    """Removes the folders of a job that failed, unless there is work in them worth keeping."""
    if fresh and len(list(job.work.glob(f"*/{RECORD}"))) <= 1:
        for path in sorted(job.store.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        job.store.rmdir()


def _already_there(out: Path, note: dict[str, Any]) -> Ledger:
    ledger = read_ledger(out)
    made = {"corpus": ledger.corpus, "tokenizer": ledger.tokenizer, **ledger.recipe}
    check_same({**made, "files": ledger.files}, note, str(out))
    Store(out).verify_all()
    with exclusive(out):  # what an interruption after the ledger left
        shutil.rmtree(out / WORK, ignore_errors=True)
        _sweep(out)
    say(f"{out}: already there, {_summary(ledger)}")
    return ledger


def _summary(ledger: Ledger) -> str:
    parts = [
        f"{ledger.total(split, 'documents'):,} documents and {ledger.total(split, 'tokens'):,}"
        f" tokens ({split})"
        for split in ledger.splits
    ]
    if ledger.counts["duplicates"]:
        parts.append(f"{ledger.counts['duplicates']:,} duplicates left out")
    if ledger.recipe["heldout"] and ledger.total("heldout", "documents") < 2:
        parts.append("too few to evaluate on, see --held-out")
    return ", ".join(parts)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
