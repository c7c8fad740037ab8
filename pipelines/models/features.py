"""Vectors of the texts of a file, written to another file while they are computed.

Some texts at a time are in memory, however many there are. Within these they are sorted by length,
so that little padding is computed, and put back into their order.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
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
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.api import Bert, Pooling
from pipelines.models.formats import feature_files
from pipelines.tasks.sequences import truncated

# google-research/bert: between the texts of a pair.
SEPARATOR = " ||| "

# What is computed before it is written: at most so many tokens, and numbers in their vectors
# (64 MiB). It is more where a single batch is.
_CHUNK_TOKENS, _CHUNK_NUMBERS = 1 << 15, 1 << 24

Text = tuple[str, ...]  # one, or the two of a pair


@dataclass(frozen=True)
class Extraction:
    """Which vectors.

    Args:
        layers: 0 is the embeddings, 1 the first layer, -1 the last.
        pooling: See `pipelines.models.api.Bert.encode`; None for a vector of every token.
        words: A vector of every word: the mean of those of its tokens.
        batch_size: Texts at a time.
    """

    layers: tuple[int, ...] = (-1,)
    pooling: Pooling | None = "mean"
    words: bool = False
    batch_size: int = 32


class Row(NamedTuple):
    """A text as the network takes it.

    Attributes:
        token_ids: With [CLS] and [SEP].
        token_type_ids: Of each token.
        word_ids: Number of the word that each token is of; -1 for [CLS] and [SEP].
        words: How many words there are.
        is_cut: Whether it is only the beginning of the text.
    """

    token_ids: list[int]
    token_type_ids: list[int]
    word_ids: list[int]
    words: int
    is_cut: bool


def read(path: Path) -> Iterator[Text]:
    """The texts of a file.

    Args:
        path: .txt, a text or ``a ||| b`` per line; or .jsonl, whose objects have a ``text``.

    Raises:
        BadInputError: It cannot be read; one line that names file and line.
    """
    if path.suffix == ".jsonl":
        for place, record in numbered_lines.records(path):
            yield (numbered_lines.text(numbered_lines.field(record, "text", place), "text", place),)
    elif path.suffix == ".txt":
        for _, line in numbered_lines.lines(path):
            first, _, second = line.strip().rpartition(SEPARATOR)
            yield (first, second) if first else (second,)
    else:
        raise BadInputError(f"{path} ends neither in .txt (a text per line) nor in .jsonl")


def extract(bert: Bert, source: Path, out: Path, which: Extraction) -> int:
    """Writes the vectors of all texts of a file; `out` appears when it is complete.

    Of a text that is too long the beginning counts, of a pair the shorter one longer.

    Args:
        bert: The model.
        source: See `read`.
        out: .npz or .arrow, with ``layer_N`` for every N of the layers; see `feature_files` for the
            shapes. Without pooling there are also ``token_ids``, int32.
        which: Vectors.

    Returns:
        The number of texts.

    Raises:
        BadInputError: `source` cannot be read, or `out` is there already.
        BadArgumentsError: There is no such format.
    """
    if out.exists():
        raise BadInputError(f"{out} is already there; remove it or choose another")
    # All of it is read before the first hour of computing, not after.
    total = sum(1 for _ in read(source))
    if not total:
        raise BadInputError(f"{source} holds no text")
    done = cut = blank = 0
    with _draft(out) as folder, closing(feature_files.writer(out.suffix, folder)) as writer:
        with progress("texts", total) as show:
            for rows in _chunks(bert, read(source), which):
                writer.append(*_columns(bert, rows, which))
                done += len(rows)
                cut += sum(row.is_cut for row in rows)
                blank += sum(not row.words for row in rows)
                show(done, "")
        writer.finish().replace(out)
    if cut:
        say(f"texts longer than {bert.model.network.max_positions} tokens, cut to them: {cut:,}")
    if blank:
        say(f"texts without a word: {blank:,}")
    return total


def rows_of(tokenizer: Tokenizer, texts: Sequence[Text], length: int, words: bool) -> list[Row]:
    """Rows of at most `length` tokens.

    Args:
        tokenizer: Of the model.
        texts: Single ones or pairs.
        length: At least 5.
        words: Encode each word, as given by white space, on its own; else the text is one word.
    """
    pieces = [part.split() if words else [part] * bool(part.strip()) for part in chain(*texts)]
    encoded = iter(tokenizer.encode(list(chain.from_iterable(pieces))))
    tokens = iter([list(islice(encoded, len(part))) for part in pieces])
    return [_row(tokenizer, [next(tokens) for _ in text], length) for text in texts]


def _row(tokenizer: Tokenizer, parts: Sequence[list[list[int]]], length: int) -> Row:
    """A row of one or two texts, each as the tokens of its words."""
    sizes = [sum(map(len, part)) for part in parts]
    room = _shares(sizes, length - 1 - len(parts))
    row = Row([tokenizer.cls_id], [0], [-1], 0, room != sizes)
    words = 0
    for segment, part in enumerate(parts):
        ids = list(chain.from_iterable(part))[: room[segment]]
        lengths = np.fromiter(map(len, part), np.int64, len(part))
        owners = np.repeat(np.arange(len(part)), lengths)[: room[segment]]
        row.token_ids.extend([*ids, tokenizer.sep_id])
        row.token_type_ids.extend([segment] * (len(ids) + 1))
        row.word_ids.extend([*(words + owners).tolist(), -1])
        # Of a text that is cut, words behind the cut are not there.
        words += len(part) if room[segment] == sizes[segment] else int(owners[-1]) + 1
    return row._replace(words=words)


def _shares(sizes: list[int], room: int) -> list[int]:
    """How many tokens of one or two texts are kept; see `sequences.rows`."""
    a, b = np.array(sizes[:1]), np.array(sizes[1:] or [0])
    kept = truncated(a, b, np.array([room]))
    return [int(part[0]) for part in kept[: len(sizes)]]


def _chunks(bert: Bert, texts: Iterator[Text], which: Extraction) -> Iterator[list[Row]]:
    """Rows for as many batches as are computed before something is written."""
    network = bert.model.network
    numbers = _CHUNK_NUMBERS // (network.hidden_size * len(which.layers))
    rows: list[Row] = []
    while some := list(islice(texts, which.batch_size)):
        rows += rows_of(bert.tokenizer, some, network.max_positions, which.words)
        if sum(len(row.token_ids) for row in rows) >= min(numbers, _CHUNK_TOKENS):
            yield rows
            rows = []
    if rows:
        yield rows


def _columns(
    bert: Bert, rows: Sequence[Row], which: Extraction
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Columns of some texts, in their order, and how many rows of them are of each text."""
    found: list[Any] = [None] * len(rows)
    pooling = None if which.words else which.pooling
    ids, segments = [row.token_ids for row in rows], [row.token_type_ids for row in rows]
    for numbers, states in bert.states(ids, segments, which.layers, pooling, which.batch_size):
        for place, number in enumerate(numbers):
            vectors = states[:, place]
            if which.words:
                vectors = _word_means(vectors, rows[number])
            elif pooling is None:
                vectors = vectors[:, : len(ids[number])]
            else:
                vectors = vectors[:, None]
            found[number] = vectors
    columns = {
        f"layer_{layer}": np.concatenate([one[place] for one in found])
        for place, layer in enumerate(which.layers)
    }
    if pooling is not None:
        return columns, None
    if not which.words:
        columns["token_ids"] = np.fromiter(chain.from_iterable(ids), np.int32)
    return columns, np.array([one.shape[1] for one in found], np.int64)


def _word_means(states: np.ndarray, row: Row) -> np.ndarray:
    """float32 [layers, words, D] of [layers, T, D]; zeros for a word without tokens."""
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
    """A folder beside `out` that is gone afterwards, also after Ctrl-C."""
    if not out.parent.is_dir():
        raise BadArgumentsError(f"{out}: there is no folder {out.parent}")
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
