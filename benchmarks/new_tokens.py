"""Held-out MLM loss of models on tokens that extend-tokenizer added, and on the other tokens.

python benchmarks/new_tokens.py TOKENIZER STORE MODEL [MODEL ...]

TOKENIZER is the one that was extended; STORE was made with the extended one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config.run import DataConfig, Phase, RunConfig
from bert_jax.nn.encoder import define
from bert_jax.training.step import forward
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import WordPieceTokenizer, load
from pipelines.models.open import LoadedModel, open_model

LENGTH, BATCH_SIZE = 64, 64


def losses(model: LoadedModel, data: PretrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss and the target of every masked token."""
    network = define(model.network)

    @jax.jit
    def run(batch: dict[str, jax.Array]) -> jax.Array:
        logits = forward(network, model.weights.params, batch, None).mlm  # [B, P, V]
        targets = batch["mlm_targets"][..., None]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), targets, -1)[..., 0]

    found = []
    for batch in data.held_out(LENGTH, BATCH_SIZE):
        used = batch.arrays["mlm_weights"] > 0
        loss = np.asarray(run({name: jnp.array(x) for name, x in batch.arrays.items()}))
        found.append((loss[used], batch.arrays["mlm_targets"][used]))
    loss, targets = map(np.concatenate, zip(*found, strict=True))
    return loss, targets


def main() -> None:
    """Print one line for each model."""
    tokenizer, folder, *models = sys.argv[1:]
    old, store = load(Path(tokenizer)), Store(Path(folder))
    new = store.tokenizer
    if not (isinstance(old, WordPieceTokenizer) and isinstance(new, WordPieceTokenizer)):
        raise SystemExit("both tokenizers must be WordPiece")
    pairs = enumerate(zip(old.pieces, new.pieces, strict=True))
    added = [number for number, (before, after) in pairs if before != after]
    config = DataConfig(store=folder, objective="mlm")
    data = PretrainingData(store, RunConfig("-", data=config, phases=(Phase(LENGTH, 1),)))
    for name in models:
        loss, targets = losses(open_model(name), data)
        is_new = np.isin(targets, added)
        print(
            f"{name}: loss {loss.mean():.3f}; {is_new.sum()} new tokens {loss[is_new].mean():.3f},"
            f" {(~is_new).sum()} others {loss[~is_new].mean():.3f}"
        )


if __name__ == "__main__":
    main()
