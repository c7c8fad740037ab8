"""Hugging Face's BERT, through goldens that PyTorch made: same stages, gradients and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bert_jax.convert import Pretrained
from pipelines.formats import hugging_face
from stages import assert_equal, ours, synthetic, training_curve

FOLDER = Path(__file__).parent / "golden/hugging_face"


@pytest.fixture(scope="module")
def theirs() -> Pretrained:
    return hugging_face.read(FOLDER)


@pytest.mark.parametrize("name", ["padded", "packed"])
def test_every_stage_and_gradient_is_theirs(theirs: Pretrained, name: str) -> None:
    batch = synthetic(0, packed=name == "packed")
    found = ours(theirs.params, theirs.config, batch)
    assert_equal(found, np.load(FOLDER / f"{name}.npz"), theirs.config, batch)


def test_a_hundred_updates_go_the_same_way(theirs: Pretrained) -> None:
    expected = np.load(FOLDER / "training.npz")["curve"]
    batches = [synthetic(step, packed=False) for step in range(len(expected))]
    curve = training_curve(theirs.params, theirs.config, batches)
    assert np.abs(curve - expected).max() <= 1e-3
    assert curve[-10:, 0].mean() < curve[:10, 0].mean() - 0.3, "nothing was learned"
