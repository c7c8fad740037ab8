"""Products and their gradients, against the plain einsum that JAX differentiates itself."""

from __future__ import annotations

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


@pytest.mark.parametrize(("einsum", "of_x", "of_kernel", "of_bias"), PROJECTIONS)
def test_affine_maps_and_their_gradients(
    einsum: str, of_x: tuple[int, ...], of_kernel: tuple[int, ...], of_bias: tuple[int, ...]
) -> None:
    x, kernel, bias = drawn(of_x, of_kernel, of_bias)

    def plain(x: Array, kernel: Array, bias: Array) -> Array:
        y = jnp.einsum(einsum, x, kernel)
        return y + jnp.broadcast_to(bias, y.shape)

    wanted = plain(x, kernel, bias)
    np.testing.assert_allclose(linear(einsum, x, kernel, bias), wanted, atol=1e-5)
    (weights,) = drawn(wanted.shape)
    expected = gradients(plain, weights, x, kernel, bias)
    found = gradients(lambda *given: linear(einsum, *given), weights, x, kernel, bias)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    half = gradients(
        lambda *given: linear(einsum, *given), weights, x.astype(jnp.bfloat16), kernel, bias
    )
    assert [gradient.dtype for gradient in half] == [jnp.bfloat16, jnp.float32, jnp.float32]
    for one, other in zip(half, expected, strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=0.06)


def test_a_kernels_gradient_is_not_rounded_to_the_dtype_of_its_factors() -> None:
    x = jnp.ones((1, 300, 1), jnp.bfloat16)
    weights = jnp.ones((1, 300, 1)).at[0, 0].set(0.5)
    kernel, bias = jnp.ones((1, 1)), jnp.zeros(1)
    _, of_kernel, of_bias = gradients(
        lambda *given: linear("BTD,DE->BTE", *given), weights, x, kernel, bias
    )
    assert (of_kernel.item(), of_bias.item()) == (299.5, 299.5)  # bfloat16 has only 300


def test_scores_are_float32_and_so_is_the_gradient_of_their_kernel() -> None:
    x, kernel, weights = drawn((2, 3, 8), (11, 8), (2, 3, 11))
    einsum = "BPD,VD->BPV"
    expected = gradients(lambda *given: jnp.einsum(einsum, *given), weights, x, kernel)
    found = gradients(lambda *given: scores(einsum, *given), weights, x, kernel)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    half = x.astype(jnp.bfloat16)
    assert scores(einsum, half, kernel).dtype == jnp.float32
    of_x, of_kernel = gradients(lambda *given: scores(einsum, *given), weights, half, kernel)
    assert (of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(of_kernel, expected[1], atol=0.06)
