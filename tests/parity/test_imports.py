"""PyTorch is for comparisons: no command imports it."""

from __future__ import annotations

import importlib.util

import pytest

from support.commands import run_python


@pytest.mark.parametrize("command", ["finetune", "pretrain", "predict", "fill_mask"])
def test_a_command_does_not_import_pytorch(command: str) -> None:
    assert importlib.util.find_spec("torch"), "it must be installed for this test"
    result = run_python(
        f"import sys, pipelines.commands.{command};"
        " print(sorted({'torch', 'boto3', 'transformers'} & set(sys.modules)))"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_a_library_can_be_imported_after_it_was_hidden() -> None:
    result = run_python("import bert_jax.runtime.trackers, torch; print(int(torch.ones(2).sum()))")
    assert result.stdout.strip() == "2", result.stderr
