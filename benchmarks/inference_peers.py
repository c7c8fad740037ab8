"""The peers of inference.py: transformers and sentence-transformers.

python benchmarks/inference_peers.py {predict,encode,encode-onnx,fill-mask} MODEL TEXTS.json
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch
import transformers

ROWS = 32  # per batch


def predict(model: str, texts: list[str]) -> None:
    """Compute the probabilities of all texts, the longest first."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    encoded = tokenizer(texts, truncation=True)["input_ids"]
    order = sorted(range(len(texts)), key=lambda n: -len(encoded[n]))
    with torch.inference_mode():
        for first in range(0, len(order), ROWS):
            rows = [{"input_ids": encoded[n]} for n in order[first : first + ROWS]]
            batch = tokenizer.pad(rows, return_tensors="pt")
            network(**batch).logits.softmax(-1)


def fill_mask(model: str, texts: list[str]) -> None:
    """Rank the tokens of the mask of each text."""
    transformers.pipeline("fill-mask", model=model, top_k=5)(texts)


def encode(model: str, texts: list[str], backend: str = "torch") -> None:
    """Compute the mean vector of all texts; it sorts them by length itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(model, backend=backend)
    pooling = Pooling(words.get_word_embedding_dimension(), "mean")
    SentenceTransformer(modules=[words, pooling], device="cpu").encode(texts, batch_size=ROWS)


if __name__ == "__main__":
    works = {
        "predict": predict,
        "encode": encode,
        "encode-onnx": partial(encode, backend="onnx"),
        "fill-mask": fill_mask,
    }
    works[sys.argv[1]](sys.argv[2], json.loads(Path(sys.argv[3]).read_text("utf-8")))
