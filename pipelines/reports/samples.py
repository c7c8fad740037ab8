"""Predictions of a model: for masked tokens, and for the examples of its task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bert_jax.config.run import RunConfig
from bert_jax.nn.encoder import define
from bert_jax.runtime import json_lines
from bert_jax.runtime.errors import BadInputError, printable
from bert_jax.training.batch import Arrays
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.fill_mask import mask_probabilities
from pipelines.models.open import open_model
from pipelines.reports.report_tables import NONE, Table
from pipelines.reports.run import Run, text
from pipelines.tasks.reporting import SAMPLES, cut

_SEQUENCES = 12
_TOP = 5
_CONTEXT = 14  # tokens on each side
_RECORDS = 12
_MAX_PARTS = 4  # columns for the parts of an example
_RIGHT, _WRONG = "✓ right", "✗ wrong"


@dataclass(frozen=True)
class Guess:
    """A predicted token.

    Attributes:
        token: Its text.
        probability: Its probability.
        right: True if it is the masked token.
    """

    token: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Sample:
    """A masked token.

    Attributes:
        before: Input of the model to the left of it.
        after: Input of the model to the right of it.
        token: The masked token.
        guesses: The most probable tokens, best first.
    """

    before: str
    after: str
    token: str
    guesses: Sequence[Guess]


def predictions(run: Run, config: RunConfig, store: Store) -> tuple[list[Sample], int]:
    """Predict one masked token in each of the first held-out sequences.

    Returns:
        The samples, and the step of the checkpoint.

    Raises:
        BadInputError: The store has no held-out text, or no checkpoint can be read.
        DeviceUnavailableError: There is no device.
    """
    model = open_model(run.path)
    model.require_masked_language_head()
    data = PretrainingData(store, config)
    length = config.phases[-1].length
    batch = next(data.held_out(length, _SEQUENCES), None)
    if batch is None:
        raise BadInputError(
            "the store has no held-out text; prepare one with bert-jax prepare --held-out 0.05"
        )
    params, arrays = model.pretraining_params(), batch.arrays
    probabilities = np.asarray(mask_probabilities(define(model.network), params, arrays))
    probabilities = probabilities[..., : store.tokenizer.vocab_size]
    samples = [
        _sample(arrays, row, probabilities[row], store.tokenizer) for row in range(_SEQUENCES)
    ]
    return [sample for sample in samples if sample is not None], model.step or 0


def _sample(
    arrays: Arrays, row: int, probabilities: np.ndarray, tokenizer: Tokenizer
) -> Sample | None:
    """Choose the middle one of the tokens that are replaced by [MASK]; probabilities [P, V]."""
    ids, positions = arrays["token_ids"][row], arrays["mlm_positions"][row]
    used = (arrays["mlm_weights"][row] > 0) & (ids[positions] == tokenizer.mask_id)
    slots = np.flatnonzero(used)
    if not len(slots):
        return None
    slot = int(slots[len(slots) // 2])
    position, target = int(positions[slot]), int(arrays["mlm_targets"][row, slot])
    best = np.argsort(-probabilities[slot], kind="stable")[:_TOP]
    guesses = [
        Guess(_word(tokenizer, int(token)), float(probabilities[slot, token]), int(token) == target)
        for token in best
    ]
    length = int((arrays["segment_ids"][row] > 0).sum())
    start, end = max(1, position - _CONTEXT), min(length, position + _CONTEXT + 1)
    before = ("… " if start > 1 else "") + _words(tokenizer, ids[start:position])
    after = _words(tokenizer, ids[position + 1 : end]) + (" …" if end < length else "")
    return Sample(before, after, _word(tokenizer, target), guesses)


def _word(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of a token, with "…" before one inside a word."""
    inside = not tokenizer.word_starts()[token]
    return ("…" if inside else "") + printable(tokenizer.spelled(token).strip())


def _words(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """Decode tokens, but keep [MASK] and [SEP]."""
    parts: list[str] = []
    span: list[int] = []
    names = {tokenizer.mask_id: "[MASK]", tokenizer.sep_id: "[SEP]"}
    for token in [*map(int, ids), tokenizer.sep_id]:
        if token in names:
            parts += [tokenizer.decode(span), names[token]]
            span = []
        else:
            span.append(token)
    return printable(" ".join(part for part in parts[:-1] if part))


def records(run: Run) -> Table | None:
    """Return the first validation examples of a fine-tuning with their predictions."""
    lines = text(run.path / SAMPLES).splitlines()[:_RECORDS]
    examples = [example for example in map(json_lines.parse, lines) if example]
    if not examples:
        return None
    inputs = [part if isinstance(part := x.get("given"), dict) else {} for x in examples]
    names = list(dict.fromkeys(name for parts in inputs for name in parts))[:_MAX_PARTS]
    columns = [("id", [_cell(example.get("id")) for example in examples])]
    columns += [(_cell(name), [_cell(parts.get(name)) for parts in inputs]) for name in names]
    for key in ("true", "predicted"):
        columns.append((key, [_cell(example.get(key)) for example in examples]))
    probabilities = [_percent(example.get("probability")) for example in examples]
    verdicts = [_verdict(example.get("right")) for example in examples]
    for name, cells in (("probability", probabilities), ("right?", verdicts)):
        if any(cell != NONE for cell in cells):
            columns.append((name, cells))
    wrong = frozenset(row for row, verdict in enumerate(verdicts) if verdict == _WRONG)
    head, table = zip(*columns, strict=True)
    return Table(head, list(zip(*table, strict=True)), wrong, words=True)


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(cut(content)) or NONE


def _percent(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) and 0 <= value <= 1 else NONE


def _verdict(value: Any) -> str:
    return {True: _RIGHT, False: _WRONG}[value] if isinstance(value, bool) else NONE
