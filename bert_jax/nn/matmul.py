"""Einsums in the compute dtype, with sums and kernel gradients in float32."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from bert_jax.nn.device_context import device_kind


def einsum(equation: str, a: Array, b: Array) -> Array:
    """Compute the einsum of two arrays of one dtype, in that dtype."""
    if device_kind() == "cpu":
        # CPUs multiply bfloat16 twice as fast as float32, but XLA uses these instructions only for
        # results in float32.
        return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32).astype(a.dtype)
    return jnp.einsum(equation, a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def linear(equation: str, x: Array, kernel: Array, bias: Array) -> Array:
    """Compute the einsum of `x` and `kernel`, plus `bias`, in the dtype of `x`.

    Kernel and bias are rounded to this dtype; their gradients are the unrounded float32 sums.

    Args:
        equation: Such as "BTD,DE->BTE"; every letter of a factor is in the other or in the result.
        x: In the compute dtype.
        kernel: float32.
        bias: float32, with the last dimensions of the result.
    """
    return _linear(equation, x, kernel, bias)


# The forward rules are separate from the decorated functions: these would hide their matmuls from
# the policies of `jax.checkpoint`, which would then recompute all of them.
def _linear(equation: str, x: Array, kernel: Array, bias: Array) -> Array:
    y = einsum(equation, x, kernel.astype(x.dtype))
    return y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


def _linear_backward(
    equation: str, residuals: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel, bias = residuals
    leading = tuple(range(gradient.ndim - bias.ndim))
    return (
        *_factor_gradients(equation, x, kernel, gradient),
        jnp.sum(gradient, leading, dtype=jnp.float32),
    )


linear.defvjp(lambda equation, *args: (_linear(equation, *args), args), _linear_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scores(equation: str, x: Array, kernel: Array) -> Array:
    """Compute the einsum of `x` and a kernel that is rounded to the dtype of `x`; in float32."""
    return _scores(equation, x, kernel)


def _scores(equation: str, x: Array, kernel: Array) -> Array:
    return jnp.einsum(equation, x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _scores_backward(
    equation: str, factors: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = factors
    return _factor_gradients(equation, x, kernel, gradient.astype(x.dtype))


scores.defvjp(lambda equation, *args: (_scores(equation, *args), args), _scores_backward)


def _factor_gradients(
    equation: str, x: Array, kernel: Array, gradient: Array
) -> tuple[Array, Array]:
    """Return the gradients of both factors: in the compute dtype, and in float32 for the kernel."""
    factors, result = equation.split("->")
    x_axes, kernel_axes = factors.split(",")
    return (
        einsum(f"{result},{kernel_axes}->{x_axes}", gradient, kernel.astype(x.dtype)),
        jnp.einsum(
            f"{x_axes},{result}->{kernel_axes}", x, gradient, preferred_element_type=jnp.float32
        ),
    )
