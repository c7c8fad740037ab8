"""The examples in the help of each task work with files of the named kind."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from pipelines.help import finetune_example
from pipelines.settings import command_parser, read_config
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS, open_task
from support.finetuned import FILES


def _as_tabs(path: Path) -> None:
    """A table with commas as one with tabs."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")


@pytest.mark.parametrize("task", TASKS)
def test_the_example_of_a_task_names_a_file_that_it_reads(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, line = finetune_example(task, TASKS[task].example_file).splitlines()
    program, command, named, *words = shlex.split(line)
    assert (program, command, named) == ("bert-jax", "finetune", task)
    config, _ = read_config(command_parser(f"finetune {task}", ""), words, FinetuneConfig)
    FILES[task].write(Path(config.data.train), 7, 0)
    if config.data.train.endswith(".tsv"):
        _as_tabs(Path(config.data.train))
    reader = open_task(task)
    examples = reader.read(config.data.train, config.data.columns, labeled=True)
    assert len(examples) == 7
    assert reader.classes(examples)
