"""Make the goldens of PyTorch: a tiny BERT of transformers, its stages, gradients and training.

    pip install -e '.[test,parity]'
    PYTHONPATH=tests python tests/golden/make_hugging_face.py

The committed files were made with transformers 5.23.0 and torch 2.13.0 (CPU), Python 3.11.

    hugging_face/config.json, model.safetensors, vocab.txt     as save_pretrained writes them
    hugging_face/padded.npz, packed.npz                        stages and gradients of two batches
    hugging_face/training.npz                                  both losses of 100 updates

The batches are those of `support.network.synthetic`.
"""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from bert_jax.training.optimizers import learning_rate
from support.network import LONGEST, RULE, V, synthetic
from support.torch_reference import random_model, stages, tensors, training_curve

OUT = Path(__file__).parent / "hugging_face"
STEPS = 100


def main() -> None:
    """Write all files."""
    model = random_model(
        0,
        vocab_size=V,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=LONGEST,
    )
    model.save_pretrained(OUT)
    (OUT / "vocab.txt").write_text((OUT.parent / "tf1/vocab.txt").read_text("utf-8"), "utf-8")
    for name in ("padded", "packed"):
        arrays = stages(model, tensors(synthetic(0, packed=name == "packed")))
        np.savez_compressed(OUT / f"{name}.npz", **arrays)
    rates = np.array(learning_rate(RULE, STEPS)(jnp.arange(STEPS, dtype=jnp.float32)))
    batches = [synthetic(step, packed=False) for step in range(STEPS)]
    np.savez_compressed(OUT / "training.npz", curve=training_curve(model, batches, rates))


if __name__ == "__main__":
    main()
