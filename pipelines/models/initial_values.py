"""The initial values of a run with ``model.initialization: corpus``, in the folder of the run.

    RUN/initial_values.npz   arrays of `corpus_values`, and as JSON what determined them

Process 0 computes them once; every process reads them. A resumed run never computes them again.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bert_jax.config.run import RunConfig
from bert_jax.nn.corpus_values import Values, corpus_params, corpus_values
from bert_jax.runtime.console import say
from bert_jax.runtime.errors import BadInputError, UnreachableError
from bert_jax.runtime.paths import at
from bert_jax.training.checksums import digest
from bert_jax.training.metadata import Meta
from bert_jax.training.optimizers import optimizer
from bert_jax.training.partitioner import Partitioner
from bert_jax.training.state import TrainState, new_state
from pipelines.data.store import cooccurrence
from pipelines.data.store.token_store import Store
from pipelines.folders import INITIAL_VALUES, INITIAL_VALUES_DRAFT

_ORIGIN = "origin"
_FORMAT = 1
_LONGEST_WAIT = 3600  # seconds


@dataclass(frozen=True)
class CorpusStart:
    """The start of a run from the values in its folder.

    Attributes:
        config: Of the run.
        partitioner: The devices.
        path: Of the file.
        digest: Of the arrays; see `checksums.digest`.
    """

    config: RunConfig
    partitioner: Partitioner
    path: Path
    digest: str

    def state(self) -> TrainState:
        """Return the state before the first update."""
        model, seed = self.config.model, self.config.seed
        rule = optimizer(self.config.optimizer, self.config.phases)
        values, _ = _read(self.path)
        say(f"initial values from {self.path} ({self.digest[:12]})")
        return self.partitioner.build(
            lambda values: new_state(rule, corpus_params(model, seed, values)), values
        )


def corpus_start(
    config: RunConfig,
    partitioner: Partitioner,
    newest: Meta | None,
    stores: Mapping[str, tuple[float, Store]],
) -> CorpusStart:
    """Read the initial values of a run, or compute and write them for a new one.

    Args:
        config: Of the run, ``model.vocab_size`` included.
        partitioner: The devices.
        newest: Metadata of the newest checkpoint of the run; None without one.
        stores: Name -> (fraction of the rows, store).

    Raises:
        BadInputError: The text is too small, the vocabulary too large, or the file in the folder is
            damaged or of another run.
    """
    path = at(config.run_dir) / INITIAL_VALUES
    if newest is not None and not path.is_file():
        # The run no longer needs them.
        return CorpusStart(config, partitioner, path, newest.data.get(INITIAL_VALUES, ""))
    origin = _origin(config, stores)
    if jax.process_index() > 0:
        _wait_for(path)
    elif not path.is_file():
        _write(path, _compute(config, stores), origin)
    values, written = _read(path)
    different = [key for key in origin if written.get(key) != origin[key]]
    if different and newest is None:
        raise BadInputError(
            f"{path} was computed with another {different[0]} ({written.get(different[0])}, now"
            f" {origin[different[0]]}); choose another run_dir, or remove {path.parent}"
        )
    return CorpusStart(config, partitioner, path, digest(values))


def _wait_for(path: Path) -> None:
    """Wait until process 0 has written the file; JAX ends this process if that one ends.

    A collective cannot wait for so long: on CPUs, Gloo connects within 30 seconds or fails.
    """
    for _ in range(_LONGEST_WAIT):
        if path.is_file():
            return
        time.sleep(1)
    raise UnreachableError(
        f"{path} did not appear within {_LONGEST_WAIT // 60} minutes; all processes of a job need"
        " the same run_dir, on a shared disk or in a bucket"
    )


def _origin(config: RunConfig, stores: Mapping[str, tuple[float, Store]]) -> dict[str, Any]:
    """Return everything that determines the values."""
    keys = ("vocab_size", "hidden_size", "heads", "max_positions")
    digests = {name: [x, store.ledger.digest] for name, (x, store) in stores.items()}
    sizes = {f"model.{key}": getattr(config.model, key) for key in keys}
    return {"format": _FORMAT, "store": digests, "seed": config.seed, **sizes}


def _compute(config: RunConfig, stores: Mapping[str, tuple[float, Store]]) -> Values:
    tokenizer = next(iter(stores.values()))[1].tokenizer
    dimensions = config.model.hidden_size - config.model.position_dimensions
    cooccurrence.check_memory(tokenizer.vocab_size, dimensions)
    counts = cooccurrence.count(stores.values(), config.seed)
    say(
        f"counted {counts.tokens.sum():,.0f} tokens and {counts.pairs.nnz:,} pairs; factorizing"
        f" them into {dimensions} dimensions"
    )
    vectors = cooccurrence.vectors(counts.pairs, dimensions, config.seed)
    return corpus_values(config.model, counts.tokens, vectors, tokenizer.mask_id, config.seed)


def _write(path: Path, values: Values, origin: dict[str, Any]) -> None:
    """Write the file; a whole one only, even if the process is killed."""
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(origin).encode(), np.uint8)
    np.savez(content, **{_ORIGIN: text}, **values)  # type: ignore[arg-type]
    draft = path.with_name(INITIAL_VALUES_DRAFT)
    draft.write_bytes(content.getvalue())
    draft.replace(path)


def _read(path: Path) -> tuple[Values, dict[str, Any]]:
    """Return the arrays, and what they were computed from."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
        return values, json.loads(values.pop(_ORIGIN).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise BadInputError(
            f"{path} is damaged ({error}); remove it, and it is computed again unless the run has"
            " a checkpoint"
        ) from None
