"""Vectors of sentence-transformers from an exported folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

import bert_jax
from support.commands import ROOT, invoke

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = [
    "A text.",
    "The second one is longer, with punctuation, and it has more words than the first.",
    "caf\u00e9 \u4e2d\u6587 unknownword",
    "",
    "long " * 200,  # more tokens than the model accepts
]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("source", ["hugging_face", "tf1"])
def test_an_exported_folder_gives_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, pooling: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, out = ROOT / "tests/golden" / source, tmp_path / "out"
    words = ("--to", "sentence-transformers", "--pooling", pooling)
    assert invoke("convert", model, out, *words).returncode == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch and its loaders
        theirs = sentence_transformers.SentenceTransformer(str(out), device="cpu")
        vectors = theirs.encode(TEXTS, convert_to_numpy=True)
    ours = bert_jax.load(out).encode(TEXTS, pooling=pooling)  # type: ignore[arg-type]
    np.testing.assert_allclose(ours, vectors, atol=1e-4)
    np.testing.assert_array_equal(
        ours,
        bert_jax.load(model).encode(TEXTS, pooling=pooling),  # type: ignore[arg-type]
    )
    assert theirs.max_seq_length == bert_jax.load(out).model.network.max_positions
