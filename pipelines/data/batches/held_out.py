"""The held-out examples: the same for every run, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from bert_jax.config.run import DataConfig
from pipelines.data.batches.examples import Examples, PlanCache
from pipelines.data.batches.pairs import Objective
from pipelines.data.store.token_store import Split
from pipelines.data.tokenizers.tokenizer import Tokenizer

# Neither the seed nor the data settings of a run change them.
_DATA, _SEED = DataConfig(), 0

# Objective of a run -> objective of each set of examples, with the weights that count in it. Masked
# tokens always count in the same NSP pairs; only SOP needs pairs of its own.
_SETS: dict[Objective, dict[Objective, tuple[str, ...]]] = {
    "nsp": {"nsp": ("mlm_weights", "nsp_weights")},
    "sop": {"nsp": ("mlm_weights",), "sop": ("nsp_weights",)},
    "mlm": {"nsp": ("mlm_weights",)},
}


def example_sets(
    split: Split, tokenizer: Tokenizer, objective: Objective, length: int, plans: PlanCache
) -> Iterator[tuple[Examples, tuple[str, ...]]]:
    """Yield the sets of held-out examples of a run.

    Args:
        split: The held-out documents, at least two.
        tokenizer: Of the store.
        objective: Of the run.
        length: Tokens per sequence.
        plans: Of the store.

    Returns:
        Each set, and the names of the weights that count in it; the others must become 0.
    """
    for kind, counted in _SETS[objective].items():
        data = replace(_DATA, objective=kind)
        yield Examples(split, tokenizer, data, _SEED, length, plans), counted


def described(lengths: Collection[int]) -> str:
    """Return a description of the examples at these sequence lengths, for users."""
    shortest, longest = min(lengths), max(lengths)
    tokens = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    return (
        f"NSP pairs of {tokens} tokens, {_DATA.mlm_probability:.0%} of the tokens masked, the same"
        " masks for every run"
    )
