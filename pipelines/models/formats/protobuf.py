"""Reads serialised protocol buffers whose few fields are not worth a generated module."""

from __future__ import annotations

from collections.abc import Iterator

_FIXED = {1: 8, 5: 4}
_BYTES = 2


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an int of a varint, else the bytes.

    Raises:
        ValueError: The message is not one, or ends in the middle of a field.
    """
    at = 0
    while at < len(message):
        [tag], at = varints(message, at, 1)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            [number], at = varints(message, at, 1)
            yield field, number
            continue
        if kind == _BYTES:
            [size], at = varints(message, at, 1)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"a field has the unknown encoding {kind}")
        if size > len(message) - at:
            raise ValueError("a field is longer than its message")
        yield field, message[at : at + size]
        at += size


def varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """`count` numbers of 7 bits per byte, lowest first, and where the next value begins.

    Raises:
        ValueError: One does not end.
    """
    values = []
    for _ in range(count):
        number = data[at : at + 10]
        length = next((i for i, byte in enumerate(number, 1) if byte < 0x80), 0)
        if not length:
            raise ValueError("a number does not end")
        values.append(sum((number[i] & 0x7F) << 7 * i for i in range(length)))
        at += length
    return values, at
