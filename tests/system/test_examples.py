"""The examples run unchanged, on the data that they make themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.commands import ROOT, run_python

pytestmark = pytest.mark.full

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "sample_data")

# All in one process, which imports the libraries once; later examples use the model of the first.
ALL = """
import runpy, sys
out, *scripts = sys.argv[1:]
for script in scripts:
    print("==", script, flush=True)
    sys.argv = [script, "--out", out]
    sys.path[0] = script.rpartition("/")[0]
    runpy.run_path(script, run_name="__main__")
"""

# Example -> a line of its output.
EXPECTED = {
    "pretrain_on_your_text": r"^\d+\.\d%  \w+$",
    "continue_from_hugging_face": r"continued: masked-token loss \d\.\d+$",
    "finetune_sentiment": r"^(good|bad) +Emma bought a splendid coat in Lima \.$",
    "named_entities": r"^entity F1 [\d.]+%$",
    "sentence_search": r"^0\.\d{3}  .+ \.$",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the output of each example."""
    out = tmp_path_factory.mktemp("examples") / "out"
    order = sorted(EXAMPLES, key=lambda path: path.stem != "pretrain_on_your_text")
    result = run_python(ALL, out, *order, warnings="error")
    assert result.returncode == 0, result.stderr
    parts = result.stdout.split("== ")[1:]
    return {Path(part.partition("\n")[0]).stem: part.partition("\n")[2] for part in parts}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_prints_its_result(example: Path, outputs: dict[str, str]) -> None:
    assert len(example.read_text("utf-8").splitlines()) < 80
    assert re.search(EXPECTED[example.stem], outputs[example.stem], re.M), outputs[example.stem]


def test_new_sentences_are_classified(outputs: dict[str, str]) -> None:
    assert "good  Emma" in outputs["finetune_sentiment"]
    assert "bad   The meal" in outputs["finetune_sentiment"]
