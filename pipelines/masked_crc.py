"""The checksum of TensorFlow's files."""

from __future__ import annotations

import google_crc32c


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of `data` in the masked form of TensorFlow."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
