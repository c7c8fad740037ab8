"""Completion in a real bash."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.help import COMMANDS
from support.commands import refused, run_process

# Calls the function that the script registers, as bash does for Tab.
_COMPLETE = """
source "$1"; shift
name=$(complete -p bert-jax | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
$name bert-jax "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = run_process("completion", "bash")
    assert result.returncode == 0, result.stderr
    file = tmp_path_factory.mktemp("completion") / "bert-jax"
    file.write_text(result.stdout, "utf-8")
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
        ("convert MODEL OUT --to ", {"hf", "sentence-transformers", "bert-jax"}),
        ("show-batch store --data.ob", {"--data.objective"}),
        ("tpu pre", {"preflight"}),
        ("tpu types --js", {"--json"}),
    ],
)
def test_tab_completes_commands_options_and_choices(
    script: Path, typed: str, expected: set[str]
) -> None:
    words = ["bert-jax", *shlex.split(typed), *([""] if not typed or typed[-1] == " " else [])]
    command = ["bash", "--norc", "-c", _COMPLETE, "bash", str(script), *words]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(completed.stdout.split()) == expected, completed.stderr


def test_tab_completes_file_names(script: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").touch()
    command = ["bash", "--norc", "-c", _COMPLETE, "bash", str(script), "bert-jax", "pretrain"]
    command += ["--config", "ti"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == ["tiny.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_their_scripts(shell: str, tmp_path: Path) -> None:
    result = run_process("completion", shell)
    assert result.returncode == 0, result.stderr
    assert "data.objective" in result.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(result.stdout, "utf-8")
    subprocess.run([shell, "-n", str(file)], check=True)


def test_an_unknown_shell_is_refused() -> None:
    refused(run_process("completion", "cmd"), 64, "bash", "zsh", "fish")
