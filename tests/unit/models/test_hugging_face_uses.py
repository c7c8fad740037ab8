"""Hugging Face folders in commands: what a task, an export or the names of labels need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipelines.models.formats import hugging_face
from pipelines.models.formats.hugging_face import WEIGHTS
from support.commands import invoke, refused
from support.hugging_face_folders import (
    SEQUENCE,
    TOKENS,
    change,
    classifier,
    edit,
)


@pytest.mark.parametrize(
    ("kind", "head", "name", "content"),
    [
        (SEQUENCE, classifier(3), "a.csv", "text\nthe man\n"),
        (TOKENS, classifier(3), "a.conll", "the O\nman O\n"),
        (
            "BertForQuestionAnswering",
            classifier(2, "qa_outputs"),
            "a.json",
            '[{"id": 1, "question": "who?", "context": "the man in a store"}]',
        ),
    ],
)
def test_heads_of_pre_training_do_not_disturb_a_task(
    kind: str, head: dict[str, np.ndarray], name: str, content: str, folder: Path, tmp_path: Path
) -> None:
    """A head that was added to a model of pre-training, whose other heads stay in the file."""
    change(folder, **head)
    edit(folder, architectures=[kind])
    file = tmp_path / name
    file.write_text(content, "utf-8")
    result = invoke("predict", folder, "--input", file, "--output", tmp_path / "out.jsonl")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out.jsonl").read_text("utf-8").count("\n") == 1


def test_only_parts_that_are_written_are_required(folder: Path, tmp_path: Path) -> None:
    table = load_file(folder / WEIGHTS)["bert.embeddings.word_embeddings.weight"]
    change(folder, cls__predictions__decoder__weight=table + 1)
    edit(folder, tie_word_embeddings=False)
    encoder = ("--to", "sentence-transformers")
    assert invoke("convert", folder, tmp_path / "st", *encoder).returncode == 0
    refused(invoke("convert", folder, tmp_path / "hf", "--to", "hf"), 78, "decoder")
    change(folder, **classifier(3))
    edit(folder, architectures=[SEQUENCE])
    for to in ("hf", "bert-jax"):
        assert invoke("convert", folder, tmp_path / to, "--to", to).returncode == 0
    edit(folder, id2label={"0": "x", "1": "y", "2": "x"})
    assert invoke("convert", folder, tmp_path / "st2", *encoder).returncode == 0
    refused(invoke("convert", folder, tmp_path / "hf2", "--to", "hf"), 78, "'x'")


def test_a_single_label_keeps_its_name(folder: Path) -> None:
    change(folder, **classifier(1))
    edit(folder, architectures=[SEQUENCE], id2label={"0": "toxic"})
    assert hugging_face.read(folder).labels == ("LABEL_0",)  # a score
    edit(folder, problem_type="multi_label_classification")
    assert hugging_face.read(folder).labels == ("toxic",)
