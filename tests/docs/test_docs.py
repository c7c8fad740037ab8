"""README.md and docs/: every command parses, every link has a target, the site builds."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from bert_jax import __version__
from bert_jax.config.run import RunConfig
from pipelines.help import COMMANDS
from pipelines.models.api import Bert
from pipelines.settings import _keys, check_keys
from pipelines.tasks.config import FinetuneConfig
from pipelines.tasks.registry import TASKS
from support import doc_blocks
from support.commands import ROOT
from support.doc_blocks import Block
from support.doc_commands import MAKEFILE, accepted, rows_of, without_code
from tpu.config import SubmittedConfig

PAGES = doc_blocks.pages()
BLOCKS = [block for page in PAGES for block in doc_blocks.blocks(page)]
SHELL = [block for block in BLOCKS if block.language in doc_blocks.SHELL]
TUTORIAL = ROOT / "docs" / "tutorial" / "index.md"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.where)
def test_every_command_parses(
    block: Block, parse_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in block.commands():
        if words[:3] == ["srun", "--nodes", "4"]:
            words = words[words.index("bert-jax") :]
        accepted(words, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    text = without_code(page.read_text("utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub and the site name them."""
    titles = re.findall(r"^#+ (.+)$", without_code(page.read_text("utf-8")), re.M)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in titles)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda block: block.where
)
def test_every_yaml_block_is_valid(block: Block) -> None:
    config = yaml.safe_load(block.text)
    if "phases" in config:
        check_keys(config, RunConfig, block.where)


# Keys without a dot, which could also be other words.
FIELDS = {"run_dir", "init", "seed", "phases", "profile", "task"}


@pytest.mark.parametrize("page", ["google-research-bert.md", "transformers.md"])
def test_our_side_of_a_table_exists(page: str) -> None:
    assert not [name for name, count in names_of_the_others(page).items() if count > 1]
    files = {"vocab.txt", "tokenizer_config.json", "metrics.jsonl"}
    keys = {*_keys(SubmittedConfig), *_keys(FinetuneConfig), *files}
    text = (ROOT / "docs" / "coming-from" / page).read_text("utf-8")
    options = {*re.findall(r"--[a-z][\w-]*", help_texts()), "--debug"}
    named = [code for _, second in rows_of(text) for code in re.findall(r"`([^`]+)`", second)]
    for code in named:
        if re.fullmatch(r"[a-z]+(\.[a-z_0-9]+)+", code):
            assert code in keys, code
        for option in re.findall(r"(?<![\w-])--[\w.-]+", code):
            assert option in options or option[2:] in keys, code
        if command := re.match(r"bert-jax ([a-z-]+)", code):
            assert command[1] in COMMANDS, code
        if task := re.match(r"bert-jax finetune ([a-z-]+)", code):
            assert task[1] in TASKS, code
        if method := re.match(r"bert_jax\.load\(path\)\.(\w+)\(", code):
            assert hasattr(Bert, method[1]), code
        assert code not in FIELDS or code in keys, code


def names_of_the_others(page: str) -> Counter[tuple[str, str]]:
    """Count the (heading, name) of the left columns of a page's tables."""
    text = (ROOT / "docs" / "coming-from" / page).read_text("utf-8")
    return Counter(
        (section.partition("\n")[0], name)
        for section in text.split("\n## ")[1:]
        for names, _ in rows_of(section)
        for name in re.findall(r"`(\w+)`", names)
    )


def help_texts() -> str:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("generated").commands()
    finally:
        sys.path.pop(0)


def test_the_ablations_are_those_of_the_results() -> None:
    concepts = (ROOT / "docs/concepts.md").read_text("utf-8")
    table = concepts.partition("<!-- table: Ablations -->\n")[2].partition("\n\n")[0]
    assert table.count("\n") == 5
    assert table in (ROOT / "benchmarks/RESULTS.md").read_text("utf-8")


def test_the_figures_are_those_of_their_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))
    figures = runpy.run_path(str(ROOT / "docs/figures/make.py"))["figures"]()
    for name, drawing in figures.items():
        assert (ROOT / f"docs/figures/{name}.svg").read_text("utf-8") == drawing.content(), name
    lines = (ROOT / "docs/figures/run.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[-1])["step"] == 4000


@pytest.mark.full
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = re.search(r"sphinx-build (.+?) docs docs/_build/html", MAKEFILE)
    assert command is not None
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *command[1].split(), "docs", str(tmp_path / "html")],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "html/reference/commands.html").read_text("utf-8")
    assert all(f"bert-jax {name}" in page for name in COMMANDS)
    assert "float32 [texts, hidden size]" in (tmp_path / "html/reference/python.html").read_text()


def test_metadata_for_public_hosts_is_consistent() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    listed = re.findall(r"Python :: (3\.\d+)$", (ROOT / "setup.cfg").read_text("utf-8"), re.M)
    assert versions == listed
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    for target in re.findall(r"make (\w+)", " ".join(steps)):
        assert re.search(rf"^{target}:", MAKEFILE, re.M)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]
    for hook in hooks["hooks"]:
        words = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude")
        assert words.split(" --")[0] in MAKEFILE, hook["id"]
