"""The notebook in examples/: executed at a tiny size, and stored without outputs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from support.commands import ROOT
from support.finetuned import MODEL
from support.task_files import classification

NOTEBOOK = ROOT / "examples/colab.ipynb"


def content() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text("utf-8"))


def test_the_notebook_has_no_outputs() -> None:
    cells = [cell for cell in content()["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    assert sum(cell["metadata"].get("tags") == ["parameters"] for cell in cells) == 1


@pytest.mark.full
def test_the_notebook_fine_tunes_scores_predicts_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XLA_FLAGS", "")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    files = {
        name: classification.write(tmp_path / f"{name}.csv", 32, seed)
        for seed, name in enumerate(("train", "validation", "test"))
    }
    (parameters,) = (c for c in notebook.cells if c.metadata.get("tags") == ["parameters"])
    values = {"MODEL": MODEL, **{name.upper(): path for name, path in files.items()}}
    values |= {"RUN": tmp_path / "run", "OPTIONS": "--train.epochs 2 --data.length 16"}
    lines = [f"{name} = {str(value)!r}" for name, value in values.items()]
    parameters.source = "\n".join([*lines, 'TEXTS = ["the man and milk", "the man"]'])
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [
        "".join(str(o.get("text", "")) for o in c.get("outputs", ())) for c in notebook.cells
    ]
    assert any('"accuracy"' in text for text in outputs), outputs
    assert any("(" in text and "the man and milk" in text for text in outputs), outputs
    assert (tmp_path / "run/report.html").is_file()
    assert (tmp_path / "run-hf/model.safetensors").is_file()
