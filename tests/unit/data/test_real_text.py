"""Pairs and masks on real text, against a plain implementation of google-research/bert's rules."""

from __future__ import annotations

import lzma
from itertools import pairwise

import numpy as np
import pytest

from bert_jax.config.run import DataConfig
from pipelines.data.batches.examples import Examples
from pipelines.data.batches.pairs import plan
from pipelines.data.store.prepare import prepare
from pipelines.data.store.token_store import Store
from support.pair_reference import reference
from support.real_text import DATA, TEXT, VOCABULARY

pytestmark = pytest.mark.skipif(
    not (TEXT.is_file() and VOCABULARY.is_file()),
    reason=f"{DATA} has no pretrain/ and vocab/: real text is not on this machine",
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three megabytes of Wikipedia and books."""
    folder = tmp_path_factory.mktemp("real")
    with lzma.open(TEXT) as file:
        text = file.read(3_000_000).decode("utf-8", "ignore")
    (folder / "text.txt").write_text(text, "utf-8")
    (folder / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    prepare([f"text:{folder}/text.txt"], folder, folder / "store", 0.0)
    return Store(folder / "store")


@pytest.mark.parametrize("length", [128, 512])
def test_pairs_have_the_fractions_and_lengths_of_the_reference(real: Store, length: int) -> None:
    split = real.split("train")
    sizes = np.diff(split.sentence_offsets)
    bounds = split.document_offsets
    documents = [sizes[a:b].tolist() for a, b in pairwise(bounds)]
    # The fraction of random pairs of one epoch has a standard deviation of 0.02.
    epochs = [reference(documents, length, 0.1, np.random.default_rng(s)) for s in range(25)]
    expected = [pair for part in epochs for pair in part]
    planned = [plan(split, 0, epoch, length, 0.1) for epoch in range(100)]
    assert np.mean([len(part) for part in planned]) == pytest.approx(
        np.mean([len(part) for part in epochs]), rel=0.02
    )
    a, b, random = (np.concatenate([getattr(part, name) for part in planned]) for name in (
        "a_length", "b_length", "not_next"))  # fmt: skip
    assert random.mean() == pytest.approx(np.mean([r for *_, r in expected]), abs=0.012)
    assert random.mean() > 0.5
    assert a.mean() == pytest.approx(np.mean([x for x, *_ in expected]), rel=0.03)
    assert b.mean() == pytest.approx(np.mean([x for _, x, _ in expected]), rel=0.03)
    total, reference_total = a + b, np.array([x + y for x, y, _ in expected])
    assert (total == length - 3).mean() == pytest.approx(
        (reference_total == length - 3).mean(), abs=0.02
    )
    # Of some 200 documents a few dozen aim short in these passes: the shortest pairs vary.
    for share in (0.05, 0.1, 0.2):
        assert np.quantile(total, share) == pytest.approx(
            np.quantile(reference_total, share), rel=0.2, abs=3
        )


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks_have_the_published_fractions(real: Store, whole_words: bool) -> None:
    data = DataConfig(whole_words=whole_words, max_predictions=20)
    examples = Examples(real.split("train"), real.tokenizer, data, 0, 128)
    arrays = examples.batch(np.arange(3000), slice(None)).arrays
    used = arrays["mlm_weights"] > 0
    replacements = np.take_along_axis(arrays["token_ids"], arrays["mlm_positions"], axis=1)[used]
    targets = arrays["mlm_targets"][used]
    masked, kept = replacements == real.tokenizer.mask_id, replacements == targets
    assert masked.mean() == pytest.approx(0.8, abs=0.006)
    assert kept.mean() == pytest.approx(0.1, abs=0.005)
    random = replacements[~masked & ~kept]
    assert random.mean() == pytest.approx(real.tokenizer.vocab_size / 2, rel=0.03)
    specials = [real.tokenizer.pad_id, real.tokenizer.cls_id, real.tokenizer.sep_id]
    assert not np.isin(targets, specials).any()
    lengths = (arrays["segment_ids"] > 0).sum(axis=1)
    maximum = np.minimum(20, np.maximum(1, np.rint(lengths * 0.15)))
    count = used.sum(axis=1)
    if whole_words:
        assert (count <= maximum).all()
        assert count.mean() == pytest.approx(maximum.mean(), rel=0.01)
    else:
        assert (count == maximum).all()


def test_packing_fills_the_rows(real: Store) -> None:
    split = real.split("train")
    fills = {}
    for packing in (False, True):
        examples = Examples(split, real.tokenizer, DataConfig(packing=packing), 0, 512)
        number = np.arange(len(examples))
        fills[packing] = examples.at(number).pairs.length.sum() / (len(examples) * 512)
    assert fills[True] > 0.95 > fills[False]
