"""The examples run as they stand, on what they make themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import ROOT, environment

pytestmark = pytest.mark.full

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "made_up")

# All in one process, which imports the libraries once; the later ones find the model of the first.
ALL = """
import runpy, sys
out, *scripts = sys.argv[1:]
for script in scripts:
    print("==", script, flush=True)
    sys.argv = [script, "--out", out]
    sys.path[0] = script.rpartition("/")[0]
    runpy.run_path(script, run_name="__main__")
"""

# What an example says -> what shows that it worked.
EXPECTED = {
    "pretrain_on_your_text": r"^\d+\.\d%  \w+$",
    "continue_from_hugging_face": r"continued: masked-token loss \d\.\d+$",
    "finetune_sentiment": r"^(good|bad) +Emma bought a splendid coat in Lima \.$",
    "named_entities": r"^F1 of entities [\d.]+%$",
    "sentence_search": r"^0\.\d{3}  .+ \.$",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each example printed."""
    out = tmp_path_factory.mktemp("examples") / "out"
    order = sorted(EXAMPLES, key=lambda path: path.stem != "pretrain_on_your_text")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALL, str(out), *map(str, order)],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    parts = result.stdout.split("== ")[1:]
    return {Path(part.partition("\n")[0]).stem: part.partition("\n")[2] for part in parts}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_does_what_it_says(example: Path, said: dict[str, str]) -> None:
    assert len(example.read_text("utf-8").splitlines()) < 80
    assert re.search(EXPECTED[example.stem], said[example.stem], re.M), said[example.stem]


def test_the_sentiment_of_what_was_not_seen_is_told(said: dict[str, str]) -> None:
    assert "good  Emma" in said["finetune_sentiment"]
    assert "bad   The meal" in said["finetune_sentiment"]
