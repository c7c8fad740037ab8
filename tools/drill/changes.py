"""Damage that follows a format: correct checksums, headers that do not match the data."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
import sys
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import google_crc32c
import numpy as np
from safetensors.numpy import load_file, save_file

from bert_jax.training.metadata import _signed
from pipelines.data.store.token_store import LEDGER, PARTS, sha256
from pipelines.protobuf import varints
from tools.drill.mutations import changed_value

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_STREAM, _STREAMS = 1 << 24, 8  # unpacked bytes of a part of a bomb; number of parts


def split_weights(folder: Path) -> None:
    """Split ``model.safetensors`` into two files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {}
    for part, part_names in enumerate((names[::2], names[1::2])):
        file = f"part-{part}.safetensors"
        save_file({name: tensors[name] for name in part_names}, folder / file)
        files |= dict.fromkeys(part_names, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}), "utf-8")


def in_safetensors(path: Path, rng: Random) -> str:
    """Change a value in the JSON header."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        raise ValueError(path)
    size = int.from_bytes(data[:8], "little")
    header, change = changed_value(json.loads(data[8 : 8 + size]), rng)
    text = header.encode("utf-8", "surrogatepass")
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return f"header: {change}"


def in_bundle(path: Path, rng: Random) -> str:
    """Change a byte in a block of an index and correct its checksum."""
    if path.suffix != ".index":
        raise ValueError(path)
    data = bytearray(path.read_bytes())
    offset, size = varints(bytes(data), len(data) - 48, 4)[0][2:]
    if rng.random() < 0.7:  # the first block of entries instead of the index block
        size, offset = offset - 5, 0
        size = _first_block(bytes(data), size)
    position = rng.randrange(offset, offset + size)
    flipped = data[position] ^ 1 << rng.randrange(8)
    data[position] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, flipped))
    end = offset + size + 1
    data[end : end + 4] = _masked(google_crc32c.value(bytes(data[offset:end])))
    path.write_bytes(data)
    return f"byte {position} of a block, with its checksum"


def _first_block(data: bytes, max_size: int) -> int:
    """Return the size of the first block, found by its checksum."""
    for size in range(8, max_size + 1):
        if data[size + 1 : size + 5] == _masked(google_crc32c.value(data[: size + 1])):
            return size
    raise ValueError("no block")


def _masked(crc: int) -> bytes:
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def in_array(path: Path, rng: Random) -> str:
    """Change shape, type or content of a .npy file."""
    if path.suffix != ".npy":
        raise ValueError(path)
    array = np.load(path)
    if rng.random() < 0.5:
        descr, shape = rng.choice(_HEADERS)
        header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
        text = header.encode().ljust(117) + b"\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
        path.write_bytes(start + text + array.tobytes())
        return header
    kind = rng.choice(("<f4", ">u2", "<i8", "|b1", "<c8", "<U3", "<M8[s]", "O", "V2"))
    generator = np.random.default_rng(rng.getrandbits(32))
    values: dict[str, Any] = {
        "another type": array.astype(kind) if kind != "V2" else array.view("V2")[: len(array)],
        "zeros": np.zeros_like(array),
        "the largest": np.full_like(array, np.iinfo(array.dtype).max),
        "at random": generator.integers(0, np.iinfo(array.dtype).max, array.shape, array.dtype),
        "shuffled": generator.permutation(array),
        "two dimensions": array[None],
        "none": array[:0],
        "a number": array[0],
        "shorter": array[:-1],
    }
    name = rng.choice(list(values))
    np.save(path, values[name], allow_pickle=True)
    return f"{name} ({kind})" if name == "another type" else name


_HEADERS = (
    ("'<u2'", f"({2**62},)"),
    ("'<u2'", f"({2**40},)"),
    ("'<u2'", "(-1,)"),
    ("'<u2'", f"({10**30},)"),
    ("'<u2'", "(0, 99999999999)"),
    ("'<u2'", "(1.5,)"),
    ("'<u2'", "'x'"),
    ("'|O'", "(3,)"),
    ("'V0'", "(3,)"),
    ("'<U0'", f"({2**60},)"),
    ("[('a', '<u2'), ('b', '|O')]", "(3,)"),
    ("__import__('os').system('touch owned')", "(3,)"),
    ("[" * 60, "(3,)"),
)


def correct_hashes(folder: Path, rng: Random) -> None:
    """Write the hashes of the files into the ledger, usually, if it is still a file."""
    path = folder / "store" / LEDGER
    if rng.random() < 0.2 or not path.is_file():
        return
    try:
        ledger = json.loads(path.read_text("utf-8"))
        for shard in (shard for shards in ledger["splits"].values() for shard in shards):
            files = {part: path.with_name(f"{shard['name']}.{part}.npy") for part in PARTS}
            shard["sha256"] = {part: sha256(file) for part, file in files.items() if file.is_file()}
        path.write_text(json.dumps(ledger), "utf-8")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return  # the ledger itself is damaged


def bomb(path: Path, rng: Random) -> str:
    """Replace a compressed file with a small one that unpacks to very many bytes."""
    pattern = rng.choice(
        (b"a", b"\0", b"a" * 199 + b"\n", b"a" * 199 + b"\n\n", b" " * 199 + b"\n")
    )
    path.write_bytes(_bomb(path.suffix, pattern))
    return f"a bomb of {pattern!r:.20}"


@cache  # packing is slow
def _bomb(suffix: str, pattern: bytes) -> bytes:
    packers = {".gz": gzip.compress, ".xz": partial(lzma.compress, preset=0), ".zst": zstd.compress}
    if suffix not in packers:
        raise ValueError(suffix)
    return packers[suffix](pattern * (_STREAM // len(pattern))) * _STREAMS


def in_meta(path: Path, rng: Random) -> str:
    """Change a value in the metadata of a checkpoint and correct its hash."""
    content = json.loads(path.read_text("utf-8"))
    if "sha256" not in content:
        raise ValueError(path)
    del content["sha256"]
    text, change = changed_value(content, rng)
    path.write_text(json.dumps(_signed(json.loads(text))), "utf-8")
    return f"signed: {change}"
