"""README.md, docs/ and the workflow: answers of the FAQ, sizes, pairs of Python and JAX."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from support.commands import ROOT


def test_each_of_the_25_wishes_of_users_has_an_answer() -> None:
    page = (ROOT / "docs/faq.md").read_text("utf-8")
    parts = re.split(r'^<a id="wish-(\d+)"></a>\n\n### .+\n', page, flags=re.M)[1:]
    numbers = [int(number) for number in parts[::2]]
    assert sorted(numbers) == list(range(1, 26))
    for number, text in zip(numbers, parts[1::2], strict=True):
        answer = re.split(r"^#", text, flags=re.M)[0]
        assert len(answer.split()) >= 8, number


def test_every_question_has_an_answer() -> None:
    page = (ROOT / "docs/faq.md").read_text("utf-8")
    for question, answer in re.findall(r"^### (.+)\n([^#]*)", page, re.M):
        assert len(re.sub(r"<.*?>", "", answer).split()) >= 5, question


def test_results_of_one_seed_are_marked() -> None:
    for name in ("docs/concepts.md", "benchmarks/RESULTS.md", "README.md"):
        paragraphs = (ROOT / name).read_text("utf-8").split("\n\n")
        results = [text for text in paragraphs if "ablations.py STORE`" in text]
        assert results
        assert all("one seed" in text for text in results), name


WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))


def test_the_workflow_pairs_every_python_with_a_jax() -> None:
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    assert [pair["python"] for pair in matrix["include"]] == matrix["python"]
    assert len({pair["jax"] for pair in matrix["include"]}) == 2


@pytest.mark.parametrize(
    ("pair", "installed", "newest", "code"),
    [
        (0, "0.10.2", "0.10.2", 0),
        (0, "0.10.1", "0.10.2", 1),
        (0, "0.12.0", "0.12.0", 1),
        (1, "0.12.0.1", "0.12.0.1", 0),
        (1, "0.12.0.1", "0.12.1", 1),
    ],
)
def test_another_jax_than_that_of_the_pair_fails(
    pair: int, installed: str, newest: str, code: int, tmp_path: Path
) -> None:
    job = WORKFLOW["jobs"]["test"]
    script = next(step["run"] for step in job["steps"] if "JAX" in step.get("name", ""))
    expected = job["strategy"]["matrix"]["include"][pair]["jax"]
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f'  *"pip index"*) echo "jax ({newest})"; echo "Available versions: {newest}, 0.4.1";;\n'
        f"  *metadata*) echo {installed};;\nesac\n",
        "utf-8",
    )
    python.chmod(0o755)
    result = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script.replace("${{ matrix.jax }}", expected)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stderr
    assert f"jax {installed}, newest {newest}" in result.stdout


def test_the_readme_leads_to_a_report_without_scrolling() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150, "move what grows to docs/, and link it"
    report_line = next(n for n, line in enumerate(lines) if line.startswith("bert-jax report"))
    assert report_line < 60
    first = [line for line in lines[:report_line] if line.startswith(("make ", "bert-jax "))]
    assert [line.split()[1] for line in first] == ["pretrain", "test", "finetune", "predict"]
    headings = [line for line in lines if line.startswith("## ")]
    assert headings.index("## What was measured") + 1 == headings.index("## Limits")
