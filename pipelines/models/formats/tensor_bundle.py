"""Read TensorFlow checkpoints without TensorFlow.

    PREFIX.index                    names, shapes and offsets of the tensors
    PREFIX.data-00000-of-00001      the tensors, little-endian, concatenated

The index is a table as in LevelDB: blocks of keys in ascending order, each key a prefix of the key
before it and new bytes; then a block with the offsets of these blocks; then a footer with the
offset of that. A value is a protocol buffer: for the empty key a BundleHeaderProto, for the name of
a tensor its BundleEntryProto (tensorflow/core/protobuf/tensor_bundle.proto).

The files are not trusted: every length in them is compared with the size of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from bert_jax.runtime.errors import BadInputError
from pipelines.masked_crc import masked_crc
from pipelines.protobuf import fields, varints

# Numbers of tensorflow/core/framework/types.proto.
_DTYPES: dict[int, Any] = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 14: jnp.bfloat16, 19: "<f2"}
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # after each block: its compression and checksum
# The index of BERT-Large with its optimizer takes 0.1 MiB, a name at most 80 bytes. Without limits,
# a small index could expand to names that fill the memory, because each can repeat the last one.
_MAX_INDEX = 4 << 20
_MAX_NAME = 512


@dataclass(frozen=True)
class Entry:
    """The entry of a tensor in the index.

    Attributes:
        shape: Of the tensor.
        dtype: Of its values.
        unsupported: Why the tensor cannot be read, or empty.
        shard, offset, size: Number of the data file, first byte in it, and bytes.
        crc: CRC-32C of these bytes, masked.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    unsupported: str
    shard: int
    offset: int
    size: int
    crc: int


class Bundle(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name; each is read on access.

    Attributes:
        entries: Their entries in the index.
    """

    def __init__(self, prefix: Path) -> None:
        """Read the index of `prefix`, such as ``uncased_L-12_H-768_A-12/bert_model.ckpt``.

        Raises:
            BadInputError: A file is missing, truncated or damaged.
        """
        self._prefix = prefix
        self._index = Path(f"{prefix}.index")
        with _readable(self._index), self._index.open("rb") as file:
            table = file.read(_MAX_INDEX + 1)
        try:
            items = dict(_items(table))
            header, _ = _parse(items.pop(b"", b""))
            self._shards = header.get(1, 0)
            if self._shards < 1 or header.get(2, 0):
                raise ValueError("its header is missing or big-endian")
            # A key that starts with 0 is a slice of a split tensor.
            self.entries = {key.decode(): _entry(item) for key, item in items.items() if key[0]}
        except NotImplementedError:
            raise BadInputError(
                f"{self._index} is compressed, which is not supported; save the checkpoint again"
                " with TensorFlow 1.15"
            ) from None
        except ValueError as error:
            raise _damaged(self._index, error) from None
        for name, entry in self.entries.items():
            path = self._data(entry.shard)
            with _readable(path):
                size = path.stat().st_size
            if entry.offset + entry.size > size:
                raise _damaged(path, f"it ends at byte {size}, before {name!r}")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in ascending order."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        """Return whether a tensor has this name; do not read it."""
        return name in self.entries

    def __getitem__(self, name: str) -> np.ndarray:
        """Return a tensor, read-only.

        Raises:
            KeyError: No tensor has this name.
            BadInputError: It is damaged, or of an unsupported kind.
        """
        entry = self.entries[name]
        if entry.unsupported:
            raise BadInputError(
                f"{self._index}: {name!r} is {entry.unsupported}, which is not supported; save the"
                " checkpoint without it"
            )
        path = self._data(entry.shard)
        with _readable(path), path.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if len(data) != entry.size or masked_crc(data) != entry.crc:
            raise _damaged(path, f"the checksum of {name!r} differs")
        return np.frombuffer(data, entry.dtype).reshape(entry.shape)

    def _data(self, shard: int) -> Path:
        return Path(f"{self._prefix}.data-{shard:05d}-of-{self._shards:05d}")


def _damaged(path: Path, fault: object) -> BadInputError:
    return BadInputError(f"{path} is damaged ({fault}); download it again")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be read ({error.strerror}); a checkpoint needs its .index file and its"
            " .data files in one folder"
        ) from None


def _items(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table."""
    if len(table) > _MAX_INDEX:
        raise ValueError(f"it is larger than {_MAX_INDEX} bytes")
    if len(table) < _FOOTER or not table.endswith(_MAGIC):
        raise ValueError("its end is not that of a TensorFlow index")
    (_, _, *location), _ = varints(table[-_FOOTER:], 0, 4)
    end = 0
    for _, value in _block(table, *location):
        (offset, size), _ = varints(value, 0, 2)
        # A file that refers to one block many times would take long.
        if offset < end:
            raise ValueError("its blocks overlap")
        end = offset + size
        yield from _block(table, offset, size)


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block."""
    stop = offset + size + _TRAILER
    if stop > len(table) - _FOOTER:
        raise ValueError("a block extends past the end of the file")
    if masked_crc(table[offset : stop - 4]) != int.from_bytes(table[stop - 4 : stop], "little"):
        raise ValueError("the checksum of a block differs")
    if table[stop - _TRAILER]:
        raise NotImplementedError
    # The entries are followed by offsets for searches, which are not needed, and their number.
    block = table[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError("a block is shorter than its list of offsets")
    position, key = 0, b""
    while position < end:
        (shared, added, length), position = varints(block, position, 3)
        if shared > len(key) or shared + added > _MAX_NAME or added + length > end - position:
            raise ValueError("an entry is longer than its block")
        key = key[:shared] + block[position : position + added]
        position += added + length
        yield key, block[position - length : position]


def _entry(value: bytes) -> Entry:
    numbers, parts = _parse(value)
    sizes = [dim for shape in parts.get(2, []) for dim in _parse(shape)[1].get(2, [])]
    if len(sizes) > 32:
        raise ValueError(f"a tensor has {len(sizes)} dimensions")
    shape = tuple(_parse(dim)[0].get(1, 0) for dim in sizes)
    kind, size = numbers.get(1, 0), numbers.get(5, 0)
    dtype = np.dtype(_DTYPES.get(kind, "V"))
    unsupported = ""
    if 7 in parts:
        unsupported = "split into slices"
    elif kind not in _DTYPES:
        unsupported = f"of TensorFlow's type {kind}"
    elif 0 in shape:
        unsupported = "empty"
    elif math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"a tensor of shape {shape} and type {dtype} has {size} bytes")
    shard, offset = numbers.get(3, 0), numbers.get(4, 0)
    crc = int.from_bytes(parts.get(6, [b""])[-1], "little")
    return Entry(shape, dtype, unsupported, shard, offset, size, crc)


def _parse(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Return numbers and parts of a protocol buffer by field; the last of a repeated number."""
    numbers: dict[int, int] = {}
    parts: dict[int, list[bytes]] = {}
    for field, value in fields(message):
        if isinstance(value, int):
            numbers[field] = value
        else:
            parts.setdefault(field, []).append(value)
    return numbers, parts
