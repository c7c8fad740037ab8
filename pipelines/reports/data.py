"""What a pre-training run was fed, measured on batches drawn from its store."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from bert_jax.config.run import Phase, RunConfig
from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import CLOUD
from bert_jax.training.batch import Arrays
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.card import CARD
from pipelines.data.store.store_cache import cache_path
from pipelines.data.store.token_store import LEDGER, Store
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.folders import DATA_CARD
from pipelines.reports.figures import bars
from pipelines.reports.report_tables import NONE, Table
from pipelines.reports.run import Run, text

# Of every phase, from its beginning: an epoch is shuffled as a whole, and a plan takes time.
_ROWS = 2048
_MOST_BATCHES = 64
_BINS = 24


@dataclass(frozen=True)
class Drawn:
    """Counts over the batches of a phase.

    Attributes:
        phase: The phase.
        lengths: Tokens of every sequence, [N].
        rows: Rows of the batches.
        predicted: Tokens that were to be predicted.
        masked: Of them, those hidden behind [MASK].
        kept: Those left as they are, or replaced by themselves.
        random: Of the sequences with a label, those where B does not follow A.
        labelled: Sequences with a label.
    """

    phase: Phase
    lengths: np.ndarray
    rows: int
    predicted: int
    masked: int
    kept: int
    random: int
    labelled: int


def open_store(run: Run, config: RunConfig, given: str | None) -> Store:
    """The store that a run was trained on, if it is on this machine.

    Args:
        run: Of pre-training.
        config: Of it.
        given: Where it is now; None is where the config says.

    Raises:
        BadInputError: It is not here, or is another one.
    """
    named = given or config.data.store
    place = cache_path(named)
    if not (place / LEDGER).is_file():
        if named.startswith(CLOUD):
            raise BadInputError(f"{named} was not copied to this machine")
        raise BadInputError(f"the store {named!r} is not there; --store DIR says where it is")
    store = Store(place)
    known = run.meta.data.get("store") if run.meta else None
    if known not in (None, store.ledger.digest):
        raise BadInputError(f"{named} is another store than the one that it was trained on")
    return store


def card(run: Run, store: Store | None) -> str:
    """The card of the data; empty if there is none."""
    return text(run.path / DATA_CARD) or (text(store.folder / CARD) if store else "")


def drawn(config: RunConfig, store: Store) -> list[Drawn]:
    """Batches of each phase of a run, counted.

    Raises:
        BadInputError: The store is damaged.
    """
    data, tokenizer = PretrainingData(store, config), store.tokenizer
    ends = np.cumsum([0, *(phase.steps for phase in config.phases)])
    found = []
    for phase, (first, end) in zip(config.phases, pairwise(ends), strict=True):
        rows = slice(0, min(phase.batch_size, _ROWS))
        count = min(end - first, _MOST_BATCHES, -(-_ROWS // rows.stop))
        steps = range(int(first), int(first + count))
        batches = [data.batch_at(step, rows).arrays for step in steps]
        found.append(_counted(phase, batches, tokenizer))
    return found


def _counted(phase: Phase, batches: list[Arrays], tokenizer: Tokenizer) -> Drawn:
    lengths: list[np.ndarray] = []
    predicted = masked = kept = random = labelled = rows = 0
    for arrays in batches:
        ids, sequences = arrays["token_ids"], arrays["segment_ids"]
        for row in sequences:
            counts = np.bincount(row)[1:]
            lengths.append(counts[counts > 0])
        rows += len(ids)
        used = arrays["mlm_weights"] > 0
        seen = np.take_along_axis(ids, arrays["mlm_positions"], 1)[used]
        predicted += int(used.sum())
        masked += int((seen == tokenizer.mask_id).sum())
        kept += int((seen == arrays["mlm_targets"][used]).sum())
        asked = arrays["nsp_weights"] > 0
        labelled += int(asked.sum())
        random += int(arrays["nsp_labels"][asked].sum())
    whole = np.concatenate(lengths)
    return Drawn(phase, whole, rows, predicted, masked, kept, random, labelled)


def table(found: list[Drawn]) -> Table:
    """The counts as shares, a column per phase."""

    def share(part: float, whole: float) -> str:
        return f"{part / whole:.1%}" if whole else NONE

    def row(name: str, cells: list[str]) -> list[str]:
        return [name, *cells]

    tokens = [int(one.lengths.sum()) for one in found]
    slots = [one.rows * one.phase.length for one in found]
    rows = [
        row("sequences drawn", [f"{len(one.lengths):,}" for one in found]),
        row("tokens of a sequence, mean", [f"{one.lengths.mean():.1f}" for one in found]),
        row("shorter than half", [_short(one) for one in found]),
        row("padding", [share(s - t, s) for s, t in zip(slots, tokens, strict=True)]),
        row(
            "tokens to predict", [share(o.predicted, t) for o, t in zip(found, tokens, strict=True)]
        ),
        row("… hidden by [MASK]", [share(one.masked, one.predicted) for one in found]),
        row(
            "… replaced by another",
            [share(one.predicted - one.masked - one.kept, one.predicted) for one in found],
        ),
        row("… left as they are", [share(one.kept, one.predicted) for one in found]),
        row("B does not follow A", [share(one.random, one.labelled) for one in found]),
    ]
    return Table(["of the batches", *(f"length {one.phase.length}" for one in found)], rows)


def _short(one: Drawn) -> str:
    return f"{np.mean(one.lengths < one.phase.length / 2):.1%}"


def histogram(one: Drawn, figure: int) -> Markup:
    """The lengths of the sequences of a phase."""
    edges = np.linspace(0, one.phase.length, min(_BINS, one.phase.length) + 1)
    counts, _ = np.histogram(one.lengths, edges)
    return bars(counts, edges, figure, f"Tokens of sequences, length {one.phase.length}")
