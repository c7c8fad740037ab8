"""Find the sentences of a file that are nearest in meaning to a question.

    python examples/sentence_search.py MODEL sentences.txt "How do I open the window?"

Use a MODEL that was trained for this purpose, such as the folder of all-MiniLM-L6-v2: vectors of a
model that was only pre-trained carry little meaning. Without arguments, the example makes a tiny
model and some sentences.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import sample_data
from pretrain_on_your_text import pretrain_small

import bert_jax


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, help="run folder or Hugging Face folder")
    parser.add_argument("sentences", nargs="?", type=Path, help="one per line")
    parser.add_argument("question", nargs="?", default="The lamp was warm .")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    options = parser.parse_args()
    model = bert_jax.load(options.model or pretrain_small(options.out))
    file = options.sentences or sample_data.text(options.out / "sentences.txt", documents=20)
    sentences = list(filter(None, file.read_text("utf-8").splitlines()))

    vectors = normalized(model.encode([options.question, *sentences]))
    cosines = vectors[1:] @ vectors[0]
    for index in np.argsort(-cosines)[: options.top]:
        print(f"{cosines[index]:.3f}  {sentences[index]}")


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [texts, hidden size] to length 1, so that their dot products are cosines."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
