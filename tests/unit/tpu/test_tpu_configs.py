"""The configs for TPU slices: they are valid, fit their slices, and their headers are consistent.

The figures come from the TPU compiler (benchmarks/tpu_headers.py); the tests compute none.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bert_jax.config.accelerators import accelerators
from pipelines.settings import command_parser, run_config
from support.commands import ROOT
from tpu.config import SubmittedConfig, complete, read

FILES = sorted((ROOT / "configs" / "tpu").glob("*.yaml"))
PAGE = (ROOT / "docs" / "tpu.md").read_text("utf-8")
PHASE = re.compile(
    r"#   length (?P<length>\d+): (?P<used>[\d.]+) of (?P<hbm>[\d.]+) GiB per device,"
    r" (?P<step>[\d.]+) ms per step, (?P<hours>[\d.]+) hours; a checkpoint every (?P<every>[\d.]+) minutes"  # noqa: E501
)
TOTAL = re.compile(
    r"#   total: (?P<hours>[\d.]+) hours \((?P<days>[\d.]+) days\), (?P<chips>[\d.]+) chip-hours,"
    r" about (?P<on_demand>\d+) USD on demand or (?P<spot>\d+) spot"
)
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def submitted(path: Path, *options: str) -> SubmittedConfig:
    return read(command_parser("tpu submit", ""), [str(path), *options])[0]


def header(path: Path) -> str:
    lines = path.read_text("utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_every_generation_with_prices_has_a_config() -> None:
    slices = {path.stem: submitted(path).tpu.slice for path in FILES}
    assert (slices["base_v3_32"].chips, slices["large_v3_128"].chips) == (16, 64)
    generations = {slice_.generation.name for slice_ in slices.values()}
    assert generations == {accelerator.name for accelerator in accelerators() if accelerator.prices}


@every_file
def test_a_config_reads_and_is_the_papers_run(path: Path) -> None:
    config, name = submitted(path), path.stem
    assert config.run == run_config(["--config", str(path)])
    base = run_config(["--config", str(ROOT / "configs" / f"bert_{name.split('_')[0]}.yaml")])
    assert (config.model, config.optimizer, config.phases) == (
        base.model,
        base.optimizer,
        base.phases,
    )
    assert config.run_dir == f"gs://YOUR-BUCKET/runs/{name.replace('_', '-')}"
    assert config.data.store == "gs://YOUR-BUCKET/stores/wiki-books"
    assert config.train.hang_timeout == 1200
    assert config.tpu.capacity == "spot"
    bucket = ("--run_dir", "gs://bucket/run", "--data.store", "gs://bucket/store")
    complete(submitted(path, *bucket))


@every_file
def test_a_config_fits_its_slice(path: Path) -> None:
    config = submitted(path)
    slice_ = config.tpu.slice
    for phase in config.phases:
        assert phase.batch_size % (slice_.devices * config.train.accumulate) == 0
    for zone in config.tpu.zones:
        assert zone in slice_.generation.zones


@every_file
def test_a_header_names_the_slice_the_commands_and_figures_that_add_up(path: Path) -> None:
    text, config = header(path), submitted(path)
    slice_ = config.tpu.slice
    hosts = f"{slice_.hosts} host{'s' if slice_.hosts > 1 else ''}"
    chips = f"{slice_.chips} chips on {hosts}, {slice_.devices} JAX devices"
    assert f"# Hardware: {slice_.name}, {chips}" in text
    assert "never measured on hardware" in text
    assert re.search(r"compiled with (--quick|full effort), libtpu [\d.]+, 20\d\d-\d\d-\d\d", text)
    for command in ("preflight --config {}", "submit --config {} --watch"):
        assert f"bert-jax tpu {command.format(path.relative_to(ROOT))}\n" in text
    phases = list(PHASE.finditer(text))
    assert [int(phase["length"]) for phase in phases] == [phase.length for phase in config.phases]
    for figures, phase in zip(phases, config.phases, strict=True):
        assert float(figures["hbm"]) == slice_.hbm > float(figures["used"])
        step = float(figures["step"]) / 1000
        assert float(figures["hours"]) == pytest.approx(phase.steps * step / 3600, abs=0.02)
        minutes = config.checkpoint.every * step / 60
        assert float(figures["every"]) == pytest.approx(minutes, abs=0.1)
    # The slower phase has the longer interval between checkpoints.
    assert 7 < max(float(figures["every"]) for figures in phases) <= 10


@every_file
def test_the_cost_in_a_header_is_consistent_and_in_the_docs(path: Path) -> None:
    text, slice_ = header(path), submitted(path).tpu.slice
    figures = TOTAL.search(text)
    assert figures
    hours, chip_hours = float(figures["hours"]), float(figures["chips"])
    assert hours == pytest.approx(sum(float(p["hours"]) for p in PHASE.finditer(text)), abs=0.011)
    assert float(figures["days"]) == pytest.approx(hours / 24, abs=0.006)
    assert chip_hours == pytest.approx(hours * slice_.chips, abs=0.006 * slice_.chips + 0.05)
    assert slice_.generation.prices
    for name in ("on_demand", "spot"):
        price = slice_.generation.prices[name.replace("_", "-")]
        assert int(figures[name]) == pytest.approx(price * chip_hours, abs=0.6)
    row = re.search(rf"^\| `{path.stem}` \|.*$", PAGE, re.MULTILINE)
    assert row
    for name in ("hours", "chips", "on_demand", "spot"):
        assert f" {figures[name]} |" in row[0]
