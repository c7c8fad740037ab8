"""First values of the tokens that a vocabulary was extended by."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from pipelines.data.store.cooccurrence import Counts
from pipelines.models.new_tokens import Rows, context_rows, mean_rows

D, TOPICS, WORDS = 16, 6, 40  # width, and words of a topic
KNOWN = TOPICS * WORDS  # word w is of topic w % TOPICS
UNSEEN = KNOWN + TOPICS  # before it, one new word of each topic


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def text(rng: np.random.Generator) -> Counts:
    """Count words that are near words of their topic; later ones are rarer."""
    V = UNSEEN + 1
    topics = np.arange(V) % TOPICS
    tokens = rng.integers(100, 10_000, V).astype(np.float64)
    tokens[UNSEEN] = 2
    same = np.equal(*np.meshgrid(topics, topics))
    pairs = np.outer(tokens, tokens) * same / tokens.sum() * rng.uniform(0.5, 1.5, (V, V))
    return Counts(tokens, sparse.csr_array(pairs.astype(np.float32)))


def test_a_new_word_is_close_to_the_words_that_have_its_contexts() -> None:
    rng = np.random.default_rng(0)
    counts = text(rng)
    topics = rng.standard_normal((TOPICS, D))
    embedding = np.tile(topics, (WORDS + 2, 1))[: UNSEEN + 1] + 0.5 * rng.standard_normal(
        (UNSEEN + 1, D)
    )
    bias = 2 * np.log(counts.tokens) + 1
    table = Rows(embedding.astype(np.float32), bias.astype(np.float32))
    # The pieces of every new word are of the topics after its own.
    added = {KNOWN + n: [n + 1, n + 2] for n in range(TOPICS + 1)}
    rows, means = context_rows(table, added, counts), mean_rows(table, added)
    for topic in range(TOPICS):
        assert cosine(rows.embedding[topic], topics[topic]) > 0.9
        assert cosine(means.embedding[topic], topics[topic]) < 0.7
    seen = counts.tokens[KNOWN:UNSEEN]
    np.testing.assert_allclose(rows.bias[:-1], 2 * np.log(seen) + 1, atol=0.5)
    # A word that hardly occurs remains the mean of its pieces.
    assert np.array_equal(rows.embedding[-1], means.embedding[-1])
    assert rows.bias[-1] == means.bias[-1]


def test_a_text_without_known_words_leaves_the_means() -> None:
    table = Rows(np.eye(4, dtype=np.float32), np.arange(4, dtype=np.float32))
    counts = Counts(np.array([0.0, 0, 0, 50]), sparse.csr_array((4, 4), dtype=np.float32))
    rows, means = context_rows(table, {3: [0, 1]}, counts), mean_rows(table, {3: [0, 1]})
    assert np.array_equal(rows.embedding, means.embedding)
