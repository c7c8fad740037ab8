"""What a model says of tokens that were hidden from it, and of the examples of its task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bert_jax import parallel
from bert_jax.batch import Arrays
from bert_jax.config import RunConfig
from bert_jax.errors import BadInputError, printable
from bert_jax.state import define
from pipelines.data.loader import PretrainingData
from pipelines.data.store import Store
from pipelines.data.tokenizer import Tokenizer
from pipelines.fill_mask import compiled_forward
from pipelines.model import open_model
from pipelines.reports.run import Run, text
from pipelines.reports.tables import Table
from pipelines.tasks.work import PREDICTIONS

_SEQUENCES = 12
_TOP = 5
_AROUND = 14  # tokens on each side
_RECORDS = 12
_CUT = 160  # characters


@dataclass(frozen=True)
class Guess:
    """What could stand at a place.

    Attributes:
        token: Its text.
        probability: Of it.
        right: Whether it stood there.
    """

    token: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Sample:
    """A hidden token.

    Attributes:
        before: What stands left of it, as the model saw it.
        after: Right of it.
        token: That was hidden.
        guesses: The most probable ones, best first.
    """

    before: str
    after: str
    token: str
    guesses: Sequence[Guess]


def predictions(run: Run, config: RunConfig, store: Store) -> tuple[list[Sample], int]:
    """One hidden token in each of the first held-out sequences, and the step of the checkpoint.

    Raises:
        BadInputError: Nothing is held out, or no checkpoint can be read.
        DeviceUnavailableError: There is no device.
    """
    parallel.devices()
    layout = parallel.Layout(jax.local_devices()[:1])
    model = open_model(run.path, layout)
    model.require_masked_language_head()
    data = PretrainingData(store, config)
    length = config.phases[-1].length
    batch = next(data.heldout(length, _SEQUENCES), None)
    if batch is None:
        raise BadInputError("no text of the store is held out")
    params, arrays = model.pretraining_params(layout), batch.arrays
    found = compiled_forward(define(model.network), params, jax.device_put(arrays), None).mlm
    probabilities = np.asarray(jax.nn.softmax(found))[..., : store.tokenizer.vocab_size]
    samples = [
        _sample(arrays, row, probabilities[row], store.tokenizer) for row in range(_SEQUENCES)
    ]
    return [sample for sample in samples if sample is not None], model.step or 0


def _sample(
    arrays: Arrays, row: int, probabilities: np.ndarray, tokenizer: Tokenizer
) -> Sample | None:
    """The middle one of the tokens that are hidden behind [MASK]; probabilities [P, V]."""
    ids, places = arrays["token_ids"][row], arrays["mlm_positions"][row]
    used = (arrays["mlm_weights"][row] > 0) & (ids[places] == tokenizer.mask_id)
    slots = np.flatnonzero(used)
    if not len(slots):
        return None
    slot = int(slots[len(slots) // 2])
    place, target = int(places[slot]), int(arrays["mlm_targets"][row, slot])
    best = np.argsort(-probabilities[slot], kind="stable")[:_TOP]
    guesses = [
        Guess(_word(tokenizer, int(token)), float(probabilities[slot, token]), int(token) == target)
        for token in best
    ]
    there = int((arrays["sequence_ids"][row] > 0).sum())
    begin, end = max(1, place - _AROUND), min(there, place + _AROUND + 1)
    before = ("… " if begin > 1 else "") + _words(tokenizer, ids[begin:place])
    after = _words(tokenizer, ids[place + 1 : end]) + (" …" if end < there else "")
    return Sample(before, after, _word(tokenizer, target), guesses)


def _word(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token; one that goes on with a word begins with "…"."""
    inside = not tokenizer.word_starts()[token]
    return ("…" if inside else "") + printable(tokenizer.spelled(token).strip())


def _words(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """Text with [MASK] and [SEP] in it, which decoding would leave out."""
    shown: list[str] = []
    run: list[int] = []
    names = {tokenizer.mask_id: "[MASK]", tokenizer.sep_id: "[SEP]"}
    for token in [*map(int, ids), tokenizer.sep_id]:
        if token in names:
            shown += [tokenizer.decode(run), names[token]]
            run = []
        else:
            run.append(token)
    return printable(" ".join(part for part in shown[:-1] if part))


def records(run: Run) -> Table | None:
    """The first predictions of a fine-tuning on its validation data."""
    found: list[dict[str, Any]] = []
    for line in text(run.path / PREDICTIONS).splitlines()[:_RECORDS]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            found.append(record)
    keys = list(dict.fromkeys(str(key) for record in found for key in record))[:8]
    if not keys:
        return None
    names = ["predicted" if key == "label" else key for key in keys]
    return Table(names, [[_cell(record.get(key)) for key in keys] for record in found], words=True)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return _cut(", ".join(f"{key} {_plain(one)}" for key, one in value.items()))
    return _cut(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(given: str) -> str:
    line = printable(" ".join(given[: 4 * _CUT].split()))
    return line if len(line) <= _CUT else f"{line[:_CUT]} …"
