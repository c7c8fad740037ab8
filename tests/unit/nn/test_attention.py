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
from bert_jax.nn.dropout import dropout, kept, places, seeds
from bert_jax.runtime.distributed import devices
from bert_jax.training.partitioner import Partitioner

T = 128


def arrays(rows: int, heads: int, head_size: int, seed: int = 0) -> list[jax.Array]:
    """Query, keys, value, and the gradient of what comes out."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(4, rows, T, heads, head_size)).astype(np.float32)
    found[0] *= head_size**-0.5
    return list(map(jnp.array, found))


def ids(rows: int, packed: bool) -> jax.Array:
    """Sequences of different length, padding, and one row without any token."""
    found = np.ones((rows, T), np.int32)
    if packed:
        found[:, 40:] = 2
        found[0, 90:] = 3
    found[:, T - 7 :] = 0
    found[-1] = 0
    return jnp.array(found)


def plain(
    query: Any, keys: Any, value: Any, visible: AttentionMask, drawn: Any, rate: float
) -> Any:
    scores = jnp.einsum("BTNH,BSNH->BNTS", query, keys)
    weights = jax.nn.softmax(jnp.where(visible.mask()[:, None], scores, MASKED_SCORE))
    if drawn is not None:
        keep = kept(places(weights.shape), drawn[0], drawn[1], rate)
        weights = jnp.where(keep, weights / (1 - rate), 0.0)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, value)


def by_head(
    query: Any, keys: Any, value: Any, visible: AttentionMask, drawn: Any, rate: float, kernel: str
) -> Any:
    drawn = jnp.zeros(2, jnp.int32) if drawn is None else drawn
    if kernel == "xla":
        return attend(query, keys, value, visible, drawn, rate)
    flat = (array.reshape(*array.shape[:2], -1) for array in (query, keys, value))
    found = attention_pallas.attend_on_tpu(*flat, visible, query.shape[-1], drawn, rate)
    return found.reshape(query.shape)


def with_gradients(run: Any, query: Any, keys: Any, value: Any, given: Any) -> Any:
    output, pull = jax.vjp(run, query, keys, value)
    return output, *pull(given)


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
    given = arrays(4, heads, head_size)
    visible = AttentionMask(ids(4, packed), packed, left_to_right)
    drawn = seeds(jax.random.key(3)) if rate else None
    assert attention_pallas.fits(T, heads * head_size, head_size)
    runs = (
        lambda q, k, v: plain(q, k, v, visible, drawn, rate),
        lambda q, k, v: by_head(q, k, v, visible, drawn, rate, kernel),
    )
    wanted, found = (jax.jit(partial(with_gradients, run))(*given) for run in runs)
    for one, other in zip(wanted, found, strict=True):
        assert np.allclose(one, other, atol=3e-5)  # of values up to ten


def test_each_device_draws_the_masks_of_its_rows(all_devices: Partitioner) -> None:
    given = arrays(8, 2, 64)
    visible, drawn = AttentionMask(ids(8, False)), seeds(jax.random.key(1))

    def run(_: Any, batch: Any) -> Any:
        here = AttentionMask(batch["ids"])
        out = partial(by_head, visible=here, drawn=drawn, rate=0.2, kernel="pallas")
        return with_gradients(out, *(batch[name] for name in "qkvg"))

    batch = dict(zip("qkvg", map(np.asarray, given), strict=True))
    batch["ids"] = np.asarray(visible.segment_ids)
    alone = Partitioner(devices()[:1]).predict_step(run)({}, batch)
    spread = all_devices.predict_step(run)({}, batch)
    wanted = with_gradients(lambda q, k, v: plain(q, k, v, visible, drawn, 0.2), *given)
    for one, many, expected in zip(alone, spread, wanted, strict=True):
        assert np.allclose(one, many, atol=1e-6)
        assert np.allclose(many, expected, atol=3e-5)


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


def test_masks_of_dropout_look_unrelated() -> None:
    keys = jax.random.split(jax.random.key(0), 8)
    drawn = [seeds(key) for key in keys]
    masks = np.array([kept(places((512, 512)), a, b, 0.5) for a, b in drawn]).reshape(8, -1)
    assert masks.mean(axis=1) == pytest.approx(np.full(8, 0.5), abs=0.005)
    # Of neighbours, of elements a power of two apart, and of masks to each other.
    signs = 2.0 * masks - 1
    shifts = [1, 2, 3, *(2**n for n in range(2, 14))]
    related = [np.mean(signs[:, s:] * signs[:, :-s], axis=1) for s in shifts]
    related += [np.mean(signs[a] * signs[b]) for a in range(8) for b in range(a)]
    assert max(np.abs(np.hstack(related))) < 0.012  # six standard deviations


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.9])
def test_the_share_that_is_dropped(rate: float) -> None:
    x = jnp.ones((1000, 1000))
    found = dropout(x, rate, jax.random.key(2))
    assert np.mean(found == 0) == pytest.approx(rate, abs=0.002)
    assert np.allclose(found[found != 0], 1 / (1 - rate))
