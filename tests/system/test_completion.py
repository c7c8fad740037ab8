"""Completion by a real bash."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.commands.cli import COMMANDS
from support.commands import refused, run_process

# Asks the function that the script registers, as bash does when Tab is pressed.
_ASK = """
source "$1"; shift
name=$(complete -p bert-jax | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$name bert-jax "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = run_process("completion", "bash")
    assert made.returncode == 0, made.stderr
    file = tmp_path_factory.mktemp("completion") / "bert-jax"
    file.write_text(made.stdout, "utf-8")
    return file


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", set(COMMANDS)),
        ("pre", {"prepare", "pretrain", "predict"}),
        ("--ver", {"--version"}),
        ("evaluate runs/first --de", {"--debug"}),
        ("finetune tagging --deb", {"--debug"}),
        ("tpu submit --deb", {"--debug"}),
        ("pretrain --data.obj", {"--data.objective"}),
        ("pretrain --config x.yaml --data.objective=nsp --train.st", {"--train.steps"}),
        ("pretrain --data.objective ", {"nsp", "sop", "mlm"}),
        ("finetune t", {"tagging"}),
        ("finetune tagging --head.ki", {"--head.kind"}),
        ("fill-mask --to", {"--top-k"}),
        ("convert MODEL OUT --to ", {"hf", "bert-jax"}),
        ("show-batch store --data.ob", {"--data.objective"}),
        ("tpu pre", {"preflight"}),
        ("tpu types --js", {"--json"}),
    ],
)
def test_tab_completes_commands_options_and_choices(
    script: Path, typed: str, expected: set[str]
) -> None:
    words = ["bert-jax", *shlex.split(typed), *([""] if not typed or typed[-1] == " " else [])]
    asked = ["bash", "--norc", "-c", _ASK, "bash", str(script), *words]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == expected, found.stderr


def test_tab_completes_files_where_a_file_is_meant(script: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").touch()
    asked = ["bash", "--norc", "-c", _ASK, "bash", str(script), "bert-jax", "pretrain"]
    asked += ["--config", "ti"]
    found = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["tiny.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_scripts(shell: str, tmp_path: Path) -> None:
    made = run_process("completion", shell)
    assert made.returncode == 0, made.stderr
    assert "--data.objective" in made.stdout or "data.objective" in made.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(made.stdout, "utf-8")
    subprocess.run([shell, "-n", str(file)], check=True)


def test_an_unknown_shell_is_refused() -> None:
    refused(run_process("completion", "cmd"), 64, "bash", "zsh", "fish")
