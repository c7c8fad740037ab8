"""Matmuls and their gradients, against the plain einsum as JAX differentiates it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from bert_jax.nn.matmul import linear, scores

PROJECTIONS = [
    ("BTD,DF->BTF", (2, 5, 8), (8, 12), (12,)),
    ("BTD,DNH->BTNH", (2, 5, 8), (8, 3, 4), (3, 4)),
    ("BTNH,NHD->BTD", (2, 5, 3, 4), (3, 4, 8), (8,)),
]


def drawn(*shapes: tuple[int, ...]) -> list[Array]:
    rng = np.random.default_rng(0)
    return [jnp.array(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def gradients(run: Any, weights: Array, *arguments: Array) -> Any:
    def total(*arguments: Array) -> Array:
        return jnp.sum(run(*arguments).astype(jnp.float32) * weights)

    return jax.jit(jax.grad(total, tuple(range(len(arguments)))))(*arguments)


@pytest.mark.parametrize(("einsum", "x_shape", "kernel_shape", "bias_shape"), PROJECTIONS)
def test_linear_maps_and_their_gradients(
    einsum: str,
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    bias_shape: tuple[int, ...],
) -> None:
    x, kernel, bias = drawn(x_shape, kernel_shape, bias_shape)

    def plain(x: Array, kernel: Array, bias: Array) -> Array:
        y = jnp.einsum(einsum, x, kernel)
        return y + jnp.broadcast_to(bias, y.shape)

    y = plain(x, kernel, bias)
    np.testing.assert_allclose(linear(einsum, x, kernel, bias), y, atol=1e-5)
    (weights,) = drawn(y.shape)
    expected = gradients(plain, weights, x, kernel, bias)
    run = partial(linear, einsum)
    actual = gradients(run, weights, x, kernel, bias)
    for first, second in zip(actual, expected, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    half = gradients(run, weights, x.astype(jnp.bfloat16), kernel, bias)
    assert [gradient.dtype for gradient in half] == [jnp.bfloat16, jnp.float32, jnp.float32]
    for first, second in zip(half, expected, strict=True):
        np.testing.assert_allclose(first.astype(jnp.float32), second, atol=0.06)


def test_a_kernels_gradient_is_not_rounded_to_the_dtype_of_its_factors() -> None:
    x = jnp.ones((1, 300, 1), jnp.bfloat16)
    weights = jnp.ones((1, 300, 1)).at[0, 0].set(0.5)
    kernel, bias = jnp.ones((1, 1)), jnp.zeros(1)
    run = partial(linear, "BTD,DE->BTE")
    _, kernel_gradient, bias_gradient = gradients(run, weights, x, kernel, bias)
    assert (kernel_gradient.item(), bias_gradient.item()) == (299.5, 299.5)  # bfloat16: 300


def test_scores_are_float32_and_so_is_the_gradient_of_their_kernel() -> None:
    x, kernel, weights = drawn((2, 3, 8), (11, 8), (2, 3, 11))
    einsum = "BPD,VD->BPV"
    expected = gradients(partial(jnp.einsum, einsum), weights, x, kernel)
    actual = gradients(partial(scores, einsum), weights, x, kernel)
    for first, second in zip(actual, expected, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    half = x.astype(jnp.bfloat16)
    assert scores(einsum, half, kernel).dtype == jnp.float32
    x_gradient, kernel_gradient = gradients(partial(scores, einsum), weights, half, kernel)
    assert (x_gradient.dtype, kernel_gradient.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(kernel_gradient, expected[1], atol=0.06)
