"""Einsums in the compute dtype, with sums and kernel gradients in float32."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from bert_jax.nn.hardware import device_kind


def einsum(equation: str, a: Array, b: Array) -> Array:
    """The einsum of two arrays of one dtype, in that dtype."""
    if device_kind() == "cpu":
        # Processors multiply bfloat16 twice as fast as float32, but XLA has them do so only where
        # the result is to be float32.
        return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32).astype(a.dtype)
    return jnp.einsum(equation, a, b)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def linear(equation: str, x: Array, kernel: Array, bias: Array) -> Array:
    """The einsum of `x` and `kernel`, plus `bias`, in the dtype of `x`.

    Kernel and bias are rounded to this dtype; their gradients are float32, as they leave the sums.

    Args:
        equation: Such as "BTD,DE->BTE"; every letter of a factor is in the other or in the result.
        x: Of the network's dtype.
        kernel: float32.
        bias: float32, with the last dimensions of the result.
    """
    return _linear(equation, x, kernel, bias)


# The forward rules are not the decorated functions, whose products would be hidden from the
# policies of `jax.checkpoint`; these would keep none of them.
def _linear(equation: str, x: Array, kernel: Array, bias: Array) -> Array:
    y = einsum(equation, x, kernel.astype(x.dtype))
    return y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)


def _linear_backward(
    equation: str, residuals: tuple[Array, Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel, bias = residuals
    leading = tuple(range(gradient.ndim - bias.ndim))
    return (
        *_of_factors(equation, x, kernel, gradient),
        jnp.sum(gradient, leading, dtype=jnp.float32),
    )


linear.defvjp(lambda equation, *args: (_linear(equation, *args), args), _linear_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scores(equation: str, x: Array, kernel: Array) -> Array:
    """The einsum of `x` and a float32 kernel, which is rounded to the dtype of `x`; in float32."""
    return _scores(equation, x, kernel)


def _scores(equation: str, x: Array, kernel: Array) -> Array:
    return jnp.einsum(equation, x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)


def _scores_backward(
    equation: str, factors: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = factors
    return _of_factors(equation, x, kernel, gradient.astype(x.dtype))


scores.defvjp(lambda equation, *args: (_scores(equation, *args), args), _scores_backward)


def _of_factors(equation: str, x: Array, kernel: Array, gradient: Array) -> tuple[Array, Array]:
    """The gradients of both factors of an einsum."""
    factors, result = equation.split("->")
    of_x, of_kernel = factors.split(",")
    return (
        einsum(f"{result},{of_kernel}->{of_x}", gradient, kernel.astype(x.dtype)),
        jnp.einsum(
            f"{of_x},{result}->{of_kernel}", x, gradient, preferred_element_type=jnp.float32
        ),
    )
