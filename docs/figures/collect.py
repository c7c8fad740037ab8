"""What the figures show of a run's data: a training sequence, and what became of its tokens."""

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

_SHOWN = 22  # tokens of the sequence that is drawn
_COUNTED = 100  # batches whose masks are counted


def seen(run_dir: Path) -> dict[str, Any]:
    """A sequence that is short enough to draw, and counts over the first batches of a run."""
    given = read_yaml(run_dir / RUN_CONFIG, RunConfig)
    config = config_from_dict(given, str(run_dir), RunConfig)
    store = Store(Path(config.data.store))
    data = PretrainingData(store, config)
    counts: Counter[str] = Counter()
    drawn: list[dict[str, Any]] = []
    for step in range(_COUNTED):
        arrays = data.batch_at(step).arrays
        for row in range(len(arrays["token_ids"])):
            tokens = sequence({name: array[row] for name, array in arrays.items()}, store.tokenizer)
            fates = [token["fate"] for token in tokens if not token["special"]]
            counts.update(fate or "not predicted" for fate in fates)
            if not drawn and len(tokens) == _SHOWN and set(fates) == {"", "[MASK]", "kept"}:
                drawn = tokens
    return {"tokens": drawn, "counts": dict(counts)}


def sequence(row: dict[str, Any], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The tokens of one row of a batch, padding left out."""
    slots = zip(row["mlm_positions"], row["mlm_targets"], row["mlm_weights"], strict=True)
    targets = {int(place): int(target) for place, target, weight in slots if weight > 0}
    found = []
    for place, token in enumerate(row["token_ids"].tolist()):
        if token == tokenizer.pad_id:
            break
        target = targets.get(place)
        found.append(
            {
                "token": tokenizer.spelled(token).strip(),
                "original": tokenizer.spelled(token if target is None else target).strip(),
                "fate": "" if target is None else fate(token, target, tokenizer),
                "segment": int(row["token_type_ids"][place]),
                "special": token in (tokenizer.cls_id, tokenizer.sep_id),
            }
        )
    return found


def fate(token: int, target: int, tokenizer: Tokenizer) -> str:
    """What was put in the place of a token that is predicted."""
    if token == tokenizer.mask_id:
        return "[MASK]"
    return "kept" if token == target else "random"
