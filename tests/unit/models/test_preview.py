"""The preview of a store: examples as text, and the speed of the loader."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from bert_jax.config.run import RunConfig
from pipelines.data.batches import preview
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import SPECIALS, WordPieceTokenizer
from support.commands import invoke, refused, write_config


def test_a_batch_is_shown_as_text(
    store: Store, store_dir: Path, config: RunConfig, tmp_path: Path
) -> None:
    file = write_config(config, tmp_path)
    result = invoke("show-batch", store_dir, "--config", file, "--step", "3", "--rows", "8")
    assert result.returncode == 0, result.stderr
    arrays = PretrainingData(store, config).batch_at(3).arrays
    rows = re.findall(r"^row (\d), (.+?), (\d+) tokens: (.*)$", result.stdout, re.MULTILINE)
    assert [int(row) for row, *_ in rows] == list(range(8))
    for row, (_, label, tokens, text) in enumerate(rows):
        assert label == ("B does not follow A" if arrays["nsp_labels"][row, 0] else "B follows A")
        assert int(tokens) == (arrays["segment_ids"][row] > 0).sum()
        assert len(re.findall(r"\{.*?\}", text)) == arrays["mlm_weights"][row].sum()
        # With what was hidden put back it is the text.
        whole = re.sub(r"\{(.*?)( → .*?)?\}", r"\1", text)
        ids = arrays["token_ids"][row].copy()
        used = arrays["mlm_weights"][row] > 0
        ids[arrays["mlm_positions"][row][used]] = arrays["mlm_targets"][row][used]
        first, second = np.flatnonzero(ids == store.tokenizer.sep_id)[[0, -1]]
        segments = (
            store.tokenizer.decode(ids[1:first]),
            store.tokenizer.decode(ids[first + 1 : second]),
        )
        expected = f"[CLS]{segments[0]}[SEP]{segments[1]}[SEP]"
        assert "".join(whole.split()) == "".join(expected.split())


def test_any_objective_can_be_shown(store_dir: Path) -> None:
    options = ("--phases", "[{length: 64, steps: 2}]", "--rows", "2")
    packed = invoke(
        "show-batch", store_dir, *options, "--data.objective", "mlm", "--data.packing", "true"
    )
    assert packed.returncode == 0, packed.stderr
    assert "one segment" in packed.stdout
    assert packed.stdout.count("row 0") >= 1
    refused(invoke("show-batch"), 64, "STORE")
    refused(invoke("show-batch", store_dir, "--stpe", "1"), 64, "--stpe")
    refused(invoke("show-batch", store_dir, *options, "--step", "2"), 64, "--step")
    refused(invoke("show-batch", store_dir / "nowhere"), 78, "bert-jax prepare")


def test_the_loader_is_measured(store_dir: Path) -> None:
    base = ("bench-loader", store_dir, "--batch", "8", "--length", "32", "--seconds", "0.2")
    for options in ((), ("--cold",), ("--packing",)):
        result = invoke(*base, *options, "--json")
        assert result.returncode == 0, result.stderr
        values = json.loads(result.stdout)
        assert values["tokens_per_second"] > 1000
        assert 0.3 < values["fill"] <= 1
        assert values["tokens_per_second"] <= values["slots_per_second"]
    refused(invoke("bench-loader", store_dir, "--batch", "0"), 64, "--batch")


def test_a_token_does_nothing_to_a_terminal() -> None:
    arrays = {
        "segment_ids": np.ones((1, 2), np.int32),
        "token_ids": np.array([[5, 4]]),
        "token_type_ids": np.zeros((1, 2), np.int32),
        "mlm_weights": np.ones((1, 1)),
        "mlm_positions": np.ones((1, 1), np.int32),
        "mlm_targets": np.array([[5]]),
        "nsp_weights": np.zeros((1, 1)),
    }
    tokenizer = WordPieceTokenizer([*SPECIALS, "\x1b[2J"], uncased=True)
    (text,) = preview.describe(arrays, 0, tokenizer)
    assert text.plain.endswith(r" \x1b[2J {\x1b[2J}")
