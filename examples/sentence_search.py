"""Finds the sentences of a file that are nearest in meaning to a question.

    python examples/sentence_search.py MODEL sentences.txt "How do I open the window?"

Take a MODEL that was trained for this, such as the folder of all-MiniLM-L6-v2: vectors of a model
that was only pre-trained say little about meaning. Without arguments it makes a tiny one and some
sentences.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import made_up
import numpy as np
from pretrain_on_your_text import pretrained

import bert_jax


def main() -> None:
    """Runs the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="a run, or a folder of others' making")
    parser.add_argument("sentences", nargs="?", type=Path, help="one per line")
    parser.add_argument("question", nargs="?", default="The lamp was warm .")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    model = bert_jax.load(options.model or pretrained(options.out))
    file = options.sentences or made_up.text(options.out / "sentences.txt", documents=20)
    sentences = list(filter(None, file.read_text("utf-8").splitlines()))

    vectors = unit(model.encode([options.question, *sentences]))
    cosines = vectors[1:] @ vectors[0]
    for place in np.argsort(-cosines)[: options.top]:
        print(f"{cosines[place]:.3f}  {sentences[place]}")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [texts, hidden size] with length 1, whose products are cosines."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
