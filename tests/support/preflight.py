"""A small config for preflight."""

from __future__ import annotations

from pathlib import Path


def write_small(folder: Path) -> Path:
    """Write a config of bert-tiny whose batch splits over eight devices."""
    path = folder / "config.yaml"
    path.write_text(
        "run_dir: run\n"
        "model: {preset: bert-tiny, vocab_size: 1024}\n"
        "phases:\n"
        "  - {length: 128, steps: 900, batch_size: 256}\n",
        "utf-8",
    )
    return path
