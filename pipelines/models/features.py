"""Write the vectors of all texts of a file while they are computed.

Memory contains a limited number of texts. Short ones share rows of the network, and all are
restored to the order of the file before they are written.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from bert_jax.runtime.console import progress, say
from bert_jax.runtime.errors import BadArgumentsError, BadInputError
from bert_jax.runtime.signals import end_at_once, take_over
from pipelines.data.sources import numbered_lines
from pipelines.data.sources.locations import existing
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.api import Bert
from pipelines.models.formats import feature_files
from pipelines.models.states import Pooling
from pipelines.tasks.sequences import truncated

# Between the texts of a pair, as in google-research/bert.
SEPARATOR = " ||| "

# Most tokens, and numbers in their vectors (64 MiB), that are computed before they are written. A
# single batch may have more.
_CHUNK_TOKENS, _CHUNK_NUMBERS = 1 << 17, 1 << 24

Text = tuple[str, ...]  # one text, or two of a pair


@dataclass(frozen=True)
class Extraction:
    """Options of `extract`.

    Args:
        layers: 0 is the embeddings, 1 the first layer, -1 the last.
        pooling: See `pipelines.models.api.Bert.encode`; None for a vector per token.
        words: A vector per word: the mean over its tokens.
        batch_size: Rows per batch; short texts share rows.
    """

    layers: tuple[int, ...] = (-1,)
    pooling: Pooling | None = "mean"
    words: bool = False
    batch_size: int = 32


class Row(NamedTuple):
    """The input row of a text.

    Attributes:
        token_ids: With [CLS] and [SEP].
        token_type_ids: Of each token.
        word_ids: Index of each token's word; -1 for [CLS] and [SEP].
        words: Number of words.
        is_truncated: True if the end of the text is missing.
    """

    token_ids: list[int]
    token_type_ids: list[int]
    word_ids: list[int]
    words: int
    is_truncated: bool


def read(source: str | Path) -> Iterator[Text]:
    """Read the texts of a file.

    Args:
        source: A path or URL of .txt, a text or ``a ||| b`` per line; or .jsonl, whose objects have
            a ``text``. The file may be compressed.

    Raises:
        BadInputError: The file cannot be read; the message names file and line.
    """
    file = existing(source)
    if file.content_suffix == ".jsonl":
        for number, record in numbered_lines.records(file):
            position = numbered_lines.position(file, number)
            value = numbered_lines.field(record, "text", position)
            yield (numbered_lines.text(value, "text", position),)
    elif file.content_suffix == ".txt":
        for _, line in numbered_lines.lines(file):
            first, _, second = line.strip().rpartition(SEPARATOR)
            yield (first, second) if first else (second,)
    else:
        raise BadInputError(f"{source} must end in .txt (a text per line) or .jsonl; rename it")


def extract(bert: Bert, source: str | Path, out: Path, options: Extraction) -> int:
    """Write the vectors of all texts of a file; `out` exists only when complete.

    A text that is too long is truncated at its end; of a pair, the longer text first.

    Args:
        bert: The model.
        source: See `read`.
        out: .npz or .arrow, with ``layer_N`` for every N of the layers; see `feature_files` for the
            shapes. Without pooling it also has ``token_ids``, int32.
        options: Layers, pooling and batch size.

    Returns:
        The number of texts.

    Raises:
        BadInputError: `source` cannot be read, or `out` already exists.
        BadArgumentsError: `out` has an unknown format.
    """
    if out.exists():
        raise BadInputError(f"{out} already exists; remove it or choose another")
    # Read the whole file first, so that its errors appear before hours of computing.
    total = 0
    for total, text in enumerate(read(source), start=1):
        if len(text) > bert.model.network.type_vocab_size:
            raise BadInputError(
                f"{source}: text {total} is a pair, but type_vocab_size of the model is 1: it reads"
                " single texts only; use another model, or single texts"
            )
    if not total:
        raise BadInputError(f"{source} contains no text; check that it is the right file")
    done = truncated_count = blank = 0
    with _draft(out) as folder, closing(feature_files.writer(out.suffix, folder)) as writer:
        with progress("texts", total) as show:
            for rows in _ahead(_chunks(bert, read(source), options)):
                writer.append(*_columns(bert, rows, options))
                done += len(rows)
                truncated_count += sum(row.is_truncated for row in rows)
                blank += sum(not row.words for row in rows)
                show(done, "")
        writer.finish().replace(out)
    bert.tokenizer.special_words.report()
    if truncated_count:
        longest = bert.model.network.max_positions
        say(f"texts truncated to the {longest} tokens of the model: {truncated_count:,}")
    if blank:
        say(f"texts without a word: {blank:,}")
    return total


def rows_of(tokenizer: Tokenizer, texts: Sequence[Text], length: int, words: bool) -> list[Row]:
    """Make rows of at most `length` tokens.

    Args:
        tokenizer: Of the model.
        texts: Single texts or pairs.
        length: At least 5.
        words: Encode each word, separated by white space, on its own; else the text is one word.
    """
    pieces = [part.split() if words else [part] * bool(part.strip()) for part in chain(*texts)]
    encoded = iter(tokenizer.encode(list(chain.from_iterable(pieces))))
    tokens = iter([list(islice(encoded, len(part))) for part in pieces])
    return [_row(tokenizer, [next(tokens) for _ in text], length) for text in texts]


def _row(tokenizer: Tokenizer, parts: Sequence[list[list[int]]], length: int) -> Row:
    """Make a row of one or two texts; `parts` has the tokens of each word of each text."""
    sizes = [sum(map(len, part)) for part in parts]
    kept = _kept(sizes, length - 1 - len(parts))
    row = Row([tokenizer.cls_id], [0], [-1], 0, kept != sizes)
    words = 0
    for token_type, part in enumerate(parts):
        ids = list(chain.from_iterable(part))[: kept[token_type]]
        lengths = np.fromiter(map(len, part), np.int64, len(part))
        owners = np.repeat(np.arange(len(part)), lengths)[: kept[token_type]]
        row.token_ids.extend([*ids, tokenizer.sep_id])
        row.token_type_ids.extend([token_type] * (len(ids) + 1))
        row.word_ids.extend([*(words + owners).tolist(), -1])
        # Words after the truncation do not count.
        words += len(part) if kept[token_type] == sizes[token_type] else int(owners[-1]) + 1
    return row._replace(words=words)


def _kept(sizes: list[int], limit: int) -> list[int]:
    """Return how many tokens of one or two texts are kept; see `sequences.rows`."""
    a, b = np.array(sizes[:1]), np.array(sizes[1:] or [0])
    kept = truncated(a, b, np.array([limit]))
    return [int(part[0]) for part in kept[: len(sizes)]]


def _chunks(bert: Bert, texts: Iterator[Text], options: Extraction) -> Iterator[list[Row]]:
    """Yield the rows that are computed before they are written."""
    network = bert.model.network
    numbers = _CHUNK_NUMBERS // (network.hidden_size * len(options.layers))
    rows: list[Row] = []
    while batch := list(islice(texts, options.batch_size)):
        rows += rows_of(bert.tokenizer, batch, network.max_positions, options.words)
        if sum(len(row.token_ids) for row in rows) >= min(numbers, _CHUNK_TOKENS):
            yield rows
            rows = []
    if rows:
        yield rows


def _ahead(chunks: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """Yield the chunks; a thread makes the next one while one is computed."""
    with ThreadPoolExecutor(1, "tokenizer") as thread:
        waiting = thread.submit(next, chunks, None)
        while rows := waiting.result():
            waiting = thread.submit(next, chunks, None)
            yield rows


def _columns(
    bert: Bert, rows: Sequence[Row], options: Extraction
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Return the columns of texts, in their order, and the number of rows per text."""
    states_of: list[Any] = [None] * len(rows)
    pooling = None if options.words else options.pooling
    ids, token_types = [row.token_ids for row in rows], [row.token_type_ids for row in rows]
    states = bert.states(ids, token_types, options.layers, pooling, options.batch_size)
    for number, vectors in states:
        if options.words:
            states_of[number] = _word_means(vectors, rows[number])
        else:
            states_of[number] = vectors if pooling is None else vectors[:, None]
    columns = {
        f"layer_{layer}": np.concatenate([vectors[index] for vectors in states_of])
        for index, layer in enumerate(options.layers)
    }
    if pooling is not None:
        return columns, None
    if not options.words:
        columns["token_ids"] = np.fromiter(chain.from_iterable(ids), np.int32)
    return columns, np.array([vectors.shape[1] for vectors in states_of], np.int64)


def _word_means(states: np.ndarray, row: Row) -> np.ndarray:
    """Reduce [layers, T, D] to float32 [layers, words, D]; zeros for a word without tokens."""
    tokens = np.flatnonzero(np.array(row.word_ids) >= 0)
    means = np.zeros((len(states), row.words, states.shape[2]), np.float32)
    if len(tokens):
        words, starts, counts = np.unique(
            np.array(row.word_ids)[tokens], return_index=True, return_counts=True
        )
        sums = np.add.reduceat(states[:, tokens], starts, axis=1)
        means[:, words] = sums / counts[:, None].astype(np.float32)
    return means


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    """Create a folder beside `out`; remove it at the end, also after Ctrl-C."""
    if not out.parent.is_dir():
        raise BadArgumentsError(f"{out}: folder {out.parent} does not exist; create it first")
    folder = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))

    def leave(number: int, frame: FrameType | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        end_at_once(number, frame)

    before = take_over(leave)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
