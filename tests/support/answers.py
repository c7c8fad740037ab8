"""Logits that name one answer, and the real files of SQuAD."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.tasks.task import Features
from support.commands import ROOT


def certain(features: Features, starts: Sequence[Any], ends: Sequence[Any]) -> np.ndarray:
    """Return logits that are large at the given start and end positions."""
    logits = np.zeros((*features.arrays["token_ids"].shape, 2), np.float32)
    rows = np.arange(len(logits))
    logits[rows, starts, 0] += 10
    logits[rows, ends, 1] += 10
    return logits


DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data")) / "squad"
real = pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is missing")
