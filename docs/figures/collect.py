"""Collect the data of the figures from a run: a training sequence and counts of its masks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from bert_jax.config.run import RunConfig
from pipelines.data.batches.loader import PretrainingData
from pipelines.data.store.token_store import Store
from pipelines.data.tokenizers.tokenizer import Tokenizer
from pipelines.folders import RUN_CONFIG
from pipelines.settings import config_from_dict, read_yaml

_DRAWN_TOKENS = 22  # length of the sequence in the figure
_BATCHES = 100  # whose masks are counted


def collect(run_dir: Path) -> dict[str, Any]:
    """Return one short sequence, and counts over the first batches of a run."""
    values = read_yaml(run_dir / RUN_CONFIG, RunConfig)
    config = config_from_dict(values, str(run_dir), RunConfig)
    store = Store(Path(config.data.store))
    data = PretrainingData(store, config)
    counts: Counter[str] = Counter()
    drawn: list[dict[str, Any]] = []
    for step in range(_BATCHES):
        arrays = data.batch_at(step).arrays
        for row in range(len(arrays["token_ids"])):
            tokens = sequence({name: array[row] for name, array in arrays.items()}, store.tokenizer)
            fates = [token["fate"] for token in tokens if not token["special"]]
            counts.update(fate or "not predicted" for fate in fates)
            if not drawn and len(tokens) == _DRAWN_TOKENS and set(fates) == {"", "[MASK]", "kept"}:
                drawn = tokens
    return {"tokens": drawn, "counts": dict(counts)}


def sequence(row: dict[str, Any], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the tokens of one row of a batch, without padding."""
    slots = zip(row["mlm_positions"], row["mlm_targets"], row["mlm_weights"], strict=True)
    targets = {int(position): int(target) for position, target, weight in slots if weight > 0}
    tokens = []
    for position, token in enumerate(row["token_ids"].tolist()):
        if token == tokenizer.pad_id:
            break
        target = targets.get(position)
        tokens.append(
            {
                "token": tokenizer.spelled(token).strip(),
                "original": tokenizer.spelled(token if target is None else target).strip(),
                "fate": "" if target is None else fate(token, target, tokenizer),
                "token_type": int(row["token_type_ids"][position]),
                "special": token in (tokenizer.cls_id, tokenizer.sep_id),
            }
        )
    return tokens


def fate(token: int, target: int, tokenizer: Tokenizer) -> str:
    """Return the kind of replacement of a predicted token."""
    if token == tokenizer.mask_id:
        return "[MASK]"
    return "kept" if token == target else "random"
