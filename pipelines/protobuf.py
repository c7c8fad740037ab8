"""Read serialized protocol buffers with few fields, without generated modules."""

from __future__ import annotations

from collections.abc import Iterator

_FIXED = {1: 8, 5: 4}
_BYTES = 2


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field: an int for a varint, else the bytes.

    Raises:
        ValueError: The message is not valid, or ends in the middle of a field.
    """
    offset = 0
    while offset < len(message):
        [tag], offset = varints(message, offset, 1)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            [number], offset = varints(message, offset, 1)
            yield field, number
            continue
        if kind == _BYTES:
            [size], offset = varints(message, offset, 1)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if size > len(message) - offset:
            raise ValueError("a field is longer than its message")
        yield field, message[offset : offset + size]
        offset += size


def varints(data: bytes, offset: int, count: int) -> tuple[list[int], int]:
    """Return `count` numbers of 7 bits per byte, lowest first, and the offset after them.

    Raises:
        ValueError: A number does not end.
    """
    values = []
    for _ in range(count):
        number = data[offset : offset + 10]
        length = next((i for i, byte in enumerate(number, 1) if byte < 0x80), 0)
        if not length:
            raise ValueError("a number does not end")
        values.append(sum((number[i] & 0x7F) << 7 * i for i in range(length)))
        offset += length
    return values, offset
