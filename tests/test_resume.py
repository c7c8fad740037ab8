"""What may change between two sittings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bert_jax import resume
from bert_jax.config import RunConfig, as_dict
from bert_jax.errors import BadInputError


def test_a_run_of_an_older_version_goes_on(config: RunConfig) -> None:
    """Keys that came later count as their defaults."""
    old = json.loads(json.dumps(as_dict(config)))
    del old["init"], old["model"]["encoder"], old["data"]["whole_words"]
    assert resume.changes(old, as_dict(config), {}, {}, 5) == []
    words = replace(config, data=replace(config.data, whole_words=True))
    with pytest.raises(BadInputError, match=r"data\.whole_words: False -> True"):
        resume.changes(old, as_dict(words), {}, {}, 5)
    begun = replace(config, init="elsewhere", model=config.model)
    with pytest.raises(BadInputError, match="began without --init"):
        resume.changes(old, as_dict(begun), {}, {}, 5)
