"""Attention in XLA and as a TPU kernel (interpreted), against the plain formula; dropout."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.nn import attention_pallas
from bert_jax.nn.attention import attend
from bert_jax.nn.attention_mask import MASKED_SCORE, AttentionMask
from bert_jax.nn.dropout import dropout, element_index, keep_mask, seeds
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner

T = 128


def arrays(rows: int, heads: int, head_size: int, seed: int = 0) -> list[jax.Array]:
    """Return query, keys, value, and the gradient of the output."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(4, rows, T, heads, head_size)).astype(np.float32)
    drawn[0] *= head_size**-0.5
    return list(map(jnp.array, drawn))


def ids(rows: int, packed: bool) -> jax.Array:
    """Return sequences of different lengths, padding, and one row without any token."""
    segment_ids = np.ones((rows, T), np.int32)
    if packed:
        segment_ids[:, 40:] = 2
        segment_ids[0, 90:] = 3
    segment_ids[:, T - 7 :] = 0
    segment_ids[-1] = 0
    return jnp.array(segment_ids)


def plain(
    query: Any, keys: Any, value: Any, attention_mask: AttentionMask, seeds: Any, rate: float
) -> Any:
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, keys)
    weights = jax.nn.softmax(jnp.where(attention_mask.mask()[:, None], scores, MASKED_SCORE))
    if seeds is not None:
        keep = keep_mask(element_index(weights.shape), seeds[0], seeds[1], rate)
        weights = jnp.where(keep, weights / (1 - rate), 0.0)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, value)


def by_head(
    query: Any,
    keys: Any,
    value: Any,
    attention_mask: AttentionMask,
    seeds: Any,
    rate: float,
    kernel: str,
) -> Any:
    seeds = jnp.zeros(2, jnp.int32) if seeds is None else seeds
    if kernel == "xla":
        return attend(query, keys, value, attention_mask, seeds, rate)
    flat = (array.reshape(*array.shape[:2], -1) for array in (query, keys, value))
    output = attention_pallas.attend_on_tpu(*flat, attention_mask, query.shape[-1], seeds, rate)
    return output.reshape(query.shape)


def with_gradients(run: Any, query: Any, keys: Any, value: Any, gradient: Any) -> Any:
    output, vjp = jax.vjp(run, query, keys, value)
    return output, *vjp(gradient)


@pytest.mark.parametrize("kernel", ["xla", "pallas"])
@pytest.mark.parametrize(
    ("heads", "head_size", "packed", "left_to_right", "rate"),
    [
        (4, 32, False, False, 0.0),
        (2, 64, True, False, 0.3),
        (2, 128, False, True, 0.1),
        (4, 64, True, True, 0.1),
    ],
)
def test_outputs_and_gradients_are_those_of_the_formula(
    kernel: str, heads: int, head_size: int, packed: bool, left_to_right: bool, rate: float
) -> None:
    arguments = arrays(4, heads, head_size)
    mask = AttentionMask(ids(4, packed), packed, left_to_right)
    drawn = seeds(jax.random.key(3)) if rate else None
    assert attention_pallas.fits(T, heads * head_size, head_size)
    runs = (
        lambda q, k, v: plain(q, k, v, mask, drawn, rate),
        lambda q, k, v: by_head(q, k, v, mask, drawn, rate, kernel),
    )
    expected, actual = (jax.jit(partial(with_gradients, run))(*arguments) for run in runs)
    for first, second in zip(expected, actual, strict=True):
        assert np.allclose(first, second, atol=3e-5)  # of values up to ten


def test_each_device_draws_the_masks_of_its_rows(all_devices: Partitioner) -> None:
    arguments = arrays(8, 2, 64)
    mask, drawn = AttentionMask(ids(8, False)), seeds(jax.random.key(1))

    def run(_: Any, batch: Any) -> Any:
        local = AttentionMask(batch["ids"])
        out = partial(by_head, attention_mask=local, seeds=drawn, rate=0.2, kernel="pallas")
        return with_gradients(out, *(batch[name] for name in "qkvg"))

    batch = dict(zip("qkvg", map(np.asarray, arguments), strict=True))
    batch["ids"] = np.asarray(mask.segment_ids)
    alone = Partitioner(devices()[:1]).predict_step(run)({}, batch)
    spread = all_devices.predict_step(run)({}, batch)
    expected = with_gradients(lambda q, k, v: plain(q, k, v, mask, drawn, 0.2), *arguments)
    for on_one, on_many, array in zip(alone, spread, expected, strict=True):
        assert np.allclose(on_one, on_many, atol=1e-6)
        assert np.allclose(on_many, array, atol=3e-5)


@pytest.mark.parametrize(
    ("length", "heads", "head_size", "expected"),
    [
        (512, 12, 64, True),
        (128, 16, 64, True),
        (1024, 12, 64, False),
        (96, 12, 64, False),
        (128, 5, 11, False),
    ],
)
def test_other_sizes_are_left_to_xla(
    length: int, heads: int, head_size: int, expected: bool
) -> None:
    assert attention_pallas.fits(length, heads * head_size, head_size) == expected


def test_dropout_masks_look_uncorrelated() -> None:
    keys = jax.random.split(jax.random.key(0), 8)
    drawn = [seeds(key) for key in keys]
    index = element_index((512, 512))
    masks = np.array([keep_mask(index, a, b, 0.5) for a, b in drawn]).reshape(8, -1)
    assert masks.mean(axis=1) == pytest.approx(np.full(8, 0.5), abs=0.005)
    # Between neighbors, between elements a power of two apart, and between masks.
    signs = 2.0 * masks - 1
    shifts = [1, 2, 3, *(2**n for n in range(2, 14))]
    correlations = [np.mean(signs[:, s:] * signs[:, :-s], axis=1) for s in shifts]
    correlations += [np.mean(signs[a] * signs[b]) for a in range(8) for b in range(a)]
    assert max(np.abs(np.hstack(correlations))) < 0.012  # six standard deviations


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.9])
def test_the_fraction_that_is_dropped(rate: float) -> None:
    x = dropout(jnp.ones((1000, 1000)), rate, jax.random.key(2))
    assert np.mean(x == 0) == pytest.approx(rate, abs=0.002)
    assert np.allclose(x[x != 0], 1 / (1 - rate))
