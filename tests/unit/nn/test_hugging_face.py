"""Equality with Hugging Face's BERT: stages, gradients and training are goldens from PyTorch."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bert_jax.nn.tensor_names import ModelWeights
from bert_jax.runtime.errors import BadInputError
from pipelines.models.formats import hugging_face
from support.commands import ROOT
from support.network import assert_equal, ours, synthetic, training_curve

FOLDER = ROOT / "tests/golden/hugging_face"


@pytest.fixture(scope="module")
def theirs() -> ModelWeights:
    return hugging_face.read(FOLDER)


@pytest.mark.parametrize("name", ["padded", "packed"])
def test_every_stage_and_gradient_is_theirs(theirs: ModelWeights, name: str) -> None:
    batch = synthetic(0, packed=name == "packed")
    actual = ours(theirs.params, theirs.config, batch)
    assert_equal(actual, np.load(FOLDER / f"{name}.npz"), theirs.config, batch)


def test_a_hundred_updates_go_the_same_way(theirs: ModelWeights) -> None:
    expected = np.load(FOLDER / "training.npz")["curve"]
    batches = [synthetic(step, packed=False) for step in range(len(expected))]
    curve = training_curve(theirs.params, theirs.config, batches)
    assert np.abs(curve - expected).max() <= 1e-3
    assert curve[-10:, 0].mean() < curve[:10, 0].mean() - 0.3, "nothing was learned"


def test_a_part_that_is_no_file_is_refused(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "config.json", tmp_path)
    index = {"weight_map": {"bert.pooler.dense.bias": "part"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    os.mkfifo(tmp_path / "part")
    with pytest.raises(BadInputError, match="part is a pipe or device"):
        hugging_face.read(tmp_path)
    (tmp_path / "part").unlink()
    (tmp_path / "part").mkdir()
    with pytest.raises(BadInputError, match=r"part cannot be read: .*; download it again"):
        hugging_face.read(tmp_path)


@pytest.mark.parametrize("name", ["../part", "/etc/passwd", "..", "\ud800", "a\0b", "\x1b[2J"])
def test_a_part_of_a_hostile_name_is_refused(name: str, tmp_path: Path) -> None:
    shutil.copy(FOLDER / "config.json", tmp_path)
    index = {"weight_map": {"bert.pooler.dense.bias": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BadInputError) as error:
        hugging_face.read(tmp_path)
    assert str(error.value).isprintable()
