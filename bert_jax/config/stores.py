"""The stores that a pre-training run mixes: ``data.stores``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.runtime.errors import BadInputError

# Fractions such as 0.333 are meant to sum to 1.
_ROUNDING = 0.0011


@dataclass(frozen=True)
class MixedStore:
    """One store of a mixture.

    Args:
        path: Folder written by ``bert-jax prepare``; gs://… is copied to BERT_JAX_STORES first.
        fraction: Fraction of the rows that come from this store; all fractions sum to 1.
        epochs: Instead of fractions: times that this store is used while a store with 1 is used
            once; the fractions follow from the sizes of the stores.
        name: Name of the store in the metrics; empty = last part of the path.
    """

    path: str = ""
    fraction: float = 0.0
    epochs: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        """Check one entry."""
        if not self.path:
            raise BadInputError("data.stores: an entry has no path; write {path, fraction}")
        where = f"data.stores: {self.path}"
        if bool(self.fraction) == bool(self.epochs):
            raise BadInputError(f"{where} needs either a fraction or epochs; set one of them")
        if self.fraction and not 0 < self.fraction <= 1:
            raise BadInputError(f"{where}: fraction must be in (0, 1], not {self.fraction}")
        if self.epochs and not 0 < self.epochs < math.inf:
            raise BadInputError(f"{where}: epochs must be above 0, not {self.epochs}")
        if not re.fullmatch(r"[\w.-]+", self.label):
            raise BadInputError(
                f"{where}: {self.label!r} cannot name a metric; set its name, with letters, digits"
                " and ._- only"
            )

    @property
    def label(self) -> str:
        """The name of the store in metrics and messages."""
        return self.name or self.path.rstrip("/").rpartition("/")[2]


def check_mixture(store: str, stores: Sequence[MixedStore]) -> None:
    """Check that ``data.store`` and ``data.stores`` fit together.

    Raises:
        BadInputError: Both are set, fractions do not sum to 1, or two stores have one name.
    """
    if not stores:
        return
    if store:
        raise BadInputError(
            f"data.store ({store}) and data.stores are both set; remove one of them, or write"
            " store: '' to override that of a base config"
        )
    with_epochs = [entry for entry in stores if entry.epochs]
    if with_epochs and len(with_epochs) < len(stores):
        raise BadInputError("data.stores: some have fractions, others epochs; use one for all")
    total = math.fsum(entry.fraction for entry in stores)
    if not with_epochs and abs(total - 1) > _ROUNDING:
        raise BadInputError(f"data.stores: the fractions sum to {total:g}; change them to sum to 1")
    labels = [entry.label for entry in stores]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise BadInputError(f"data.stores: two are named {repeated!r}; give each another name")


def changed_proportions(saved: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the difference of the mixtures of two configs, as saved; none if there is none.

    Paths and names may change: digests identify the stores.
    """
    before, now = (
        _proportions(config.get("data", {}).get("stores", ())) for config in (saved, new)
    )
    return [f"data.stores: {before} -> {now}"] if before != now else []


def _proportions(stores: Iterable[dict[str, Any]]) -> str:
    parts = [
        f"epochs {entry['epochs']}" if entry["epochs"] else f"fraction {entry['fraction']}"
        for entry in stores
    ]
    return f"[{', '.join(parts)}]" if parts else "none"
