"""What a model says of tokens that were hidden from it, and of the examples of its task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bert_jax.config.run import RunConfig
from bert_jax.nn.encoder import define
from bert_jax.runtime import distributed
from bert_jax.runtime.errors import BadInputError, printable
from bert_jax.training.batch import Arrays
from bert_jax.training.partitioner import Partitioner
from pipelines.models.fill_mask import compiled_forward
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.models.open import open_model
from pipelines.reports.report_tables import NONE, Table
from pipelines.reports.run import Run, text
from pipelines.tasks.reporting import SAMPLES, cut

_SEQUENCES = 12
_TOP = 5
_AROUND = 14  # tokens on each side
_RECORDS = 12
_PARTS = 4  # that an example is shown in
_RIGHT, _WRONG = "✓ right", "✗ wrong"


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
    distributed.devices()
    partitioner = Partitioner(jax.local_devices()[:1])
    model = open_model(run.path, partitioner)
    model.require_masked_language_head()
    data = PretrainingData(store, config)
    length = config.phases[-1].length
    batch = next(data.held_out(length, _SEQUENCES), None)
    if batch is None:
        raise BadInputError("no text of the store is held out")
    params, arrays = model.pretraining_params(partitioner), batch.arrays
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
    there = int((arrays["segment_ids"][row] > 0).sum())
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
    """The first validation examples of a fine-tuning, and what the last evaluation said of them."""
    lines = text(run.path / SAMPLES).splitlines()[:_RECORDS]
    found = [one for one in map(_parsed, lines) if one]
    if not found:
        return None
    given = [one["given"] if isinstance(one.get("given"), dict) else {} for one in found]
    names = list(dict.fromkeys(name for part in given for name in part))[:_PARTS]
    columns = [("id", [_cell(one.get("id")) for one in found])]
    columns += [(_cell(name), [_cell(part.get(name)) for part in given]) for name in names]
    columns += [(key, [_cell(one.get(key)) for one in found]) for key in ("true", "predicted")]
    chances = [_share(one.get("probability")) for one in found]
    verdicts = [_verdict(one.get("right")) for one in found]
    columns += [
        (name, cells)
        for name, cells in (("probability", chances), ("right?", verdicts))
        if any(cell != NONE for cell in cells)
    ]
    wrong = frozenset(row for row, verdict in enumerate(verdicts) if verdict == _WRONG)
    head, cells = zip(*columns, strict=True)
    return Table(head, list(zip(*cells, strict=True)), wrong, words=True)


def _parsed(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    given = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return printable(cut(given)) or NONE


def _share(value: Any) -> str:
    return f"{value:.1%}" if isinstance(value, float) and 0 <= value <= 1 else NONE


def _verdict(value: Any) -> str:
    return {True: _RIGHT, False: _WRONG}[value] if isinstance(value, bool) else NONE
