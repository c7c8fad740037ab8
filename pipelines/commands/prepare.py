"""``bert-jax prepare``: turn a corpus into a token store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.locations import is_url
from pipelines.data.sources.registry import corpus_help
from pipelines.data.store.prepare import SentenceMode, prepare
from pipelines.data.store.shard_runners import Runner
from pipelines.data.store.upload import local_folder, upload_store
from pipelines.data.tokenizers.fetch import tokenizer_folder
from pipelines.settings import ArgumentParser, command_parser, parse

BadRows = Literal["stop", "skip"]
_MAX_BAD = 0.001


def main(argv: Sequence[str]) -> None:
    argv = list(argv)
    end = argv.index("--") if "--" in argv else len(argv)
    options, engine_options = parse(_parser(), argv[:end]), argv[end + 1 :]
    if engine_options and options.runner == "local":
        raise BadArgumentsError(f"{engine_options[0]!r} after -- needs --runner beam or dask")
    skips = options.bad_rows == "skip"
    if options.max_bad is not None and not (skips and 0 <= options.max_bad <= 1):
        raise BadArgumentsError(
            f"--max-bad {options.max_bad} must be in [0, 1] and needs --bad-rows skip"
        )
    if options.workers < 1:
        raise BadArgumentsError(f"--workers must be at least 1, not {options.workers}")
    folder = local_folder(options.out, options.scratch)
    with tokenizer_folder(options.tokenizer) as tokenizer:
        prepare(
            options.corpus,
            tokenizer,
            folder,
            options.held_out,
            sentences=options.sentences,
            language=options.language,
            min_characters=options.min_characters,
            deduplicate=not options.keep_duplicates,
            workers=options.workers,
            max_bad=(_MAX_BAD if options.max_bad is None else options.max_bad) if skips else None,
            beam=engine_options if options.runner == "beam" else None,
            scheduler=_scheduler(engine_options) if options.runner == "dask" else None,
            bucket=options.out if is_url(options.out) else "",
        )
    if is_url(options.out):
        upload_store(folder, options.out)


def _scheduler(words: Sequence[str]) -> str:
    """Parse the options of the runner dask."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--scheduler", required=True, metavar="ADDRESS")
    try:
        return str(parse(parser, words).scheduler)
    except BadArgumentsError as error:
        remedy = "write: --runner dask -- --scheduler tcp://HOST:8786"
        raise BadArgumentsError(f"{error}; {remedy}") from None


def _parser() -> ArgumentParser:
    parser = command_parser(
        "prepare", "Turn a corpus into a token store. Run the same command again to resume."
    )
    add = parser.add_argument
    add("--corpus", action="append", required=True, metavar="SPEC", help=corpus_help())
    add(
        "--tokenizer",
        required=True,
        metavar="MODEL",
        help="folder or URL of train-tokenizer or of a run, or with BERT's vocab.txt or"
        " tokenizer.json, or hf:ORG/NAME",
    )
    add("--out", required=True, metavar="STORE", help="folder to write, or gs://… or s3://…")
    add("--scratch", metavar="FOLDER", help="where a store in a bucket is made before its upload")
    add("--held-out", type=float, default=0.02, help="fraction of the documents for evaluation")
    add(
        "--sentences",
        type=SentenceMode,
        default="auto",
        help="lines: every line is a sentence; split: split lines into sentences; auto: decide"
        " by the text",
    )
    add("--language", default="en", help="of the text, for splitting sentences")
    add("--min-characters", type=int, default=0, help="skip shorter documents")
    add("--keep-duplicates", action="store_true", help="keep exact copies of documents")
    add(
        "--bad-rows",
        type=BadRows,
        default="stop",
        help="rows that have no text, or are not valid: stop at the first one, or skip and list"
        " them in the card",
    )
    add(
        "--max-bad",
        type=float,
        metavar="FRACTION",
        help=f"stop if more rows than this are skipped (default {_MAX_BAD:g})",
    )
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="number of processes")
    add(
        "--runner",
        type=Runner,
        default="local",
        help="processes of this machine, Apache Beam, whose options follow after --, or a Dask"
        " cluster: -- --scheduler tcp://HOST:8786",
    )
    return parser
