"""The wheel: what it contains, and its commands in a folder without a checkout."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.config_files import named_configs
from support.commands import ROOT, refused, run_python
from support.corpora import write_corpus

# A module in place of another package's google.cloud, as a core installation has it.
CORE = """
import sys, types
module = types.ModuleType("google.cloud")
module.__path__ = []
sys.modules["google.cloud"] = module
from bert_jax.runtime.entry_point import run
from tpu.__main__ import main
run(main, ["submit", "tpu/base_v4_16", "--dry-run"])
"""
SMALL = (
    *("--model.preset", "bert-tiny", "--phases", "[{length: 32, steps: 2, batch_size: 8}]"),
    # The counts of 61 different tokens give at most 60 dimensions; positions have 16 of the 64.
    *("--model.hidden_size", "64", "--optimizer.warmup_steps", "1"),
)


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the wheel and the dependencies of this one."""

    folder: Path  # without a checkout
    program: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [self.program, *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip

    def succeeds(self, *arguments: str) -> str:
        """Run a command, and return the next command that it proposes."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        proposed = re.search(r"next +bert-jax (.+)", result.stderr)
        return proposed[1] if proposed else ""


def checked(*command: str | Path, folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def pip(*arguments: str | Path, folder: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    checked(sys.executable, "-m", "pip", *arguments, *options, folder=folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the source distribution and the wheel that is built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    names = checked("git", "ls-files", "-co", "--exclude-standard", folder=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    checked(sys.executable, "-c", build, out, folder=source)
    (archive,) = out.glob("*.tar.gz")
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, archive, folder=out)
    return out


@pytest.fixture(scope="module")
def installed(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    environment, folder = tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("unrelated")
    checked(sys.executable, "-m", "venv", "--without-pip", environment, folder=folder)
    python = environment / "bin/python"
    (wheel,) = files.glob("*.whl")
    checked(
        *(sys.executable, "-m", "pip", "--python", python, "install", wheel),
        *("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"),
        folder=folder,
    )
    # Without the .pth files there, one of which leads to the checkout.
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    module = checked(python, "-c", "import pipelines; print(pipelines.__file__)", folder=folder)
    assert Path(module.strip()).is_relative_to(environment)
    return Installed(folder, environment / "bin/bert-jax")


def test_on_a_core_installation_submit_names_the_extra() -> None:
    words = ("tpu submit needs google.cloud", "pip install 'bert-jax[cloud]'")
    refused(run_python(CORE), 78, *words)


@pytest.mark.full
def test_the_wheel_contains_the_configs_and_no_other_folder(files: Path) -> None:
    (wheel,) = files.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    configs = {name for name in names if name.startswith("pipelines/configs/")}
    assert configs == {f"pipelines/configs/{name}.yaml" for name in named_configs()}
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if ".dist-info" not in name} == {"bert_jax", "pipelines", "tpu"}


@pytest.mark.full
def test_twine_accepts_the_files(files: Path) -> None:
    pytest.importorskip("twine")
    paths = sorted(files.iterdir())
    assert len(paths) == 2
    checked(sys.executable, "-m", "twine", "check", "--strict", *paths, folder=files)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_installed_wheel_goes_from_text_to_a_converted_model(installed: Installed) -> None:
    """Follow the commands that the program proposes; only their sizes are reduced."""
    folder = installed.folder
    corpus = f"text:{write_corpus(folder / 'corpus.txt', 200)}"
    learn = ("train-tokenizer", "--corpus", corpus, "--vocab-size", "70", "--out", "tokenizer")
    following = installed.succeeds(*learn)
    following = installed.succeeds(*shlex.split(following), "--held-out", "0.1")
    assert following.startswith("pretrain --config tiny --data.store ")
    installed.succeeds(*shlex.split(following), *SMALL)
    rows = [f"the captain finds a wooden boat,{'good' if n % 2 else 'bad'}\n" for n in range(16)]
    (folder / "train.csv").write_text("text,label\n" + "".join(rows), "utf-8")
    installed.succeeds(
        *("finetune", "classification", "--init", "runs/tiny", "--run-dir", "runs/task"),
        *("--data.train", "train.csv", "--data.validation", "train.csv", "--train.epochs", "1"),
    )
    installed.succeeds("convert", "runs/tiny", "hf", "--to", "hf")
    installed.succeeds("convert", "hf", "again", "--to", "bert-jax")
    assert (folder / "hf/model.safetensors").is_file()


@pytest.mark.full
def test_doctor_reports_the_installed_wheel_and_no_failure(installed: Installed) -> None:
    result = installed.run("doctor", "--run-dir", "runs/doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "packages are recent enough" in result.stdout


@pytest.mark.full
def test_an_unknown_config_is_refused_with_the_names(installed: Installed) -> None:
    refused(installed.run("pretrain", "--config", "tinny"), 78, "tiny,", "tpu/{base_v3_32,")
    refused(installed.run("pretrain", "--config", "configs/tiny.yaml"), 78, "--config tiny?")


@pytest.mark.full
def test_only_a_checkout_submits(installed: Installed) -> None:
    pytest.importorskip("google.cloud.tpu_v2")
    bucket = ("--run-dir", "gs://bucket/run", "--data.store", "gs://bucket/store")
    words = ("submit", "tpu/base_v4_16", *bucket, "--tpu.project", "my-project", "--dry-run")
    refused(installed.run("tpu", *words), 78, "has no setup.cfg", "a checkout")
