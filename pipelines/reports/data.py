"""Data of a pre-training run, measured on batches drawn from its store."""

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

# Drawn from the start of each phase, because planning other epochs takes time.
_ROWS = 2048
_MAX_BATCHES = 64
_BINS = 24


@dataclass(frozen=True)
class Drawn:
    """Counts over the batches of a phase.

    Attributes:
        phase: The phase.
        lengths: Tokens per sequence, [N].
        rows: Number of rows.
        predicted: Number of tokens to predict.
        masked: Number of them that are replaced by [MASK].
        kept: Number of them that are unchanged.
        random: Number of labeled sequences in which B does not follow A.
        labeled: Number of sequences with a label.
    """

    phase: Phase
    lengths: np.ndarray
    rows: int
    predicted: int
    masked: int
    kept: int
    random: int
    labeled: int


def open_store(run: Run, config: RunConfig, path: str | None) -> Store:
    """Open the store of a run, if it is on this machine.

    Args:
        run: A pre-training run.
        config: Its config.
        path: Where the store is now; None for the path in the config.

    Raises:
        BadInputError: It is missing, or another store.
    """
    name = path or config.data.store
    if not name and config.data.stores:
        paths = ", ".join(config.data.paths.values())
        raise BadInputError(f"the run mixes {paths}; give the path of one with --store DIR")
    folder = cache_path(name)
    if not (folder / LEDGER).is_file():
        if name.startswith(CLOUD):
            raise BadInputError(f"{name} was not copied to this machine")
        raise BadInputError(f"the store {name!r} does not exist; give its path with --store DIR")
    store = Store(folder)
    recorded = run.meta.data.items() if run.meta else ()
    digests = [digest for key, digest in recorded if key.startswith("store")]
    if digests and store.ledger.digest not in digests:
        raise BadInputError(
            f"{name} is not the store of the run; give the path of that store with --store DIR"
        )
    return store


def card(run: Run, store: Store | None) -> str:
    """Return the card of the data; empty if there is none."""
    return text(run.path / DATA_CARD) or (text(store.folder / CARD) if store else "")


def draw(config: RunConfig, store: Store) -> list[Drawn]:
    """Draw batches of each phase of a run, and count them.

    Raises:
        BadInputError: The store is damaged.
    """
    data, tokenizer = PretrainingData(store, config), store.tokenizer
    ends = np.cumsum([0, *(phase.steps for phase in config.phases)])
    phases = []
    for phase, (first, end) in zip(config.phases, pairwise(ends), strict=True):
        rows = slice(0, min(phase.batch_size, _ROWS))
        count = min(end - first, _MAX_BATCHES, -(-_ROWS // rows.stop))
        steps = range(int(first), int(first + count))
        batches = [data.batch_at(step, rows).arrays for step in steps]
        phases.append(_counted(phase, batches, tokenizer))
    return phases


def _counted(phase: Phase, batches: list[Arrays], tokenizer: Tokenizer) -> Drawn:
    lengths: list[np.ndarray] = []
    predicted = masked = kept = random = labeled = rows = 0
    for arrays in batches:
        ids = arrays["token_ids"]
        for row in arrays["segment_ids"]:
            counts = np.bincount(row)[1:]
            lengths.append(counts[counts > 0])
        rows += len(ids)
        used = arrays["mlm_weights"] > 0
        inputs = np.take_along_axis(ids, arrays["mlm_positions"], 1)[used]
        predicted += int(used.sum())
        masked += int((inputs == tokenizer.mask_id).sum())
        kept += int((inputs == arrays["mlm_targets"][used]).sum())
        has_label = arrays["nsp_weights"] > 0
        labeled += int(has_label.sum())
        random += int(arrays["nsp_labels"][has_label].sum())
    return Drawn(phase, np.concatenate(lengths), rows, predicted, masked, kept, random, labeled)


def table(phases: list[Drawn]) -> Table:
    """Return the counts as fractions, with a column per phase."""
    columns = [_column(drawn) for drawn in phases]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return Table(["of the batches", *(f"length {drawn.phase.length}" for drawn in phases)], rows)


def _column(drawn: Drawn) -> dict[str, str]:
    def fraction(part: float, whole: float) -> str:
        return f"{part / whole:.1%}" if whole else NONE

    lengths, predicted = drawn.lengths, drawn.predicted
    tokens, slots = int(lengths.sum()), drawn.rows * drawn.phase.length
    return {
        "sequences drawn": f"{len(lengths):,}",
        "tokens of a sequence, mean": f"{lengths.mean():.1f}",
        "shorter than half": f"{np.mean(lengths < drawn.phase.length / 2):.1%}",
        "padding": fraction(slots - tokens, slots),
        "tokens to predict": fraction(predicted, tokens),
        "… replaced by [MASK]": fraction(drawn.masked, predicted),
        "… replaced by another token": fraction(predicted - drawn.masked - drawn.kept, predicted),
        "… unchanged": fraction(drawn.kept, predicted),
        "B does not follow A": fraction(drawn.random, drawn.labeled),
    }


def histogram(drawn: Drawn, figure: int) -> tuple[str, Markup]:
    """Return title and figure of the tokens per sequence in a phase."""
    length = drawn.phase.length
    title = f"Tokens of a sequence, length {length}"
    edges = np.linspace(0, length, min(_BINS, length) + 1)
    counts, _ = np.histogram(drawn.lengths, edges)
    return title, bars(counts, edges, figure, title)
