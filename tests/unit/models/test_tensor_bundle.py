"""Checkpoints of TensorFlow: read as it wrote them, and refused where they are damaged."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from ml_dtypes import bfloat16

from bert_jax.runtime.errors import BadInputError
from pipelines.models.formats.tensor_bundle import Bundle
from support.commands import ROOT

GOLDEN = ROOT / "tests" / "golden" / "tf1"
INDEX, DATA = "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"
MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
HUGE = 2**60


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    for name in (INDEX, DATA):
        shutil.copy(GOLDEN / name, tmp_path)
    return tmp_path / "bert_model.ckpt"


def arrays(prefix: Path) -> dict[str, np.ndarray]:
    bundle = Bundle(prefix)
    return {name: bundle[name] for name in bundle.entries}


def outcome(prefix: Path) -> dict[str, np.ndarray] | str:
    """The arrays, or why there are none."""
    try:
        return arrays(prefix)
    except BadInputError as error:
        return str(error)


def damaged(path: Path, prefix: Path, *words: str) -> None:
    """Asserts one line that names the file, the fault and the remedy."""
    with pytest.raises(BadInputError, match=re.escape(path.name)) as caught:
        arrays(prefix)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert ";" in message
    assert len(message) < 1000


def test_files_of_tensorflow_are_read() -> None:
    bundle = Bundle(GOLDEN / "bert_model.ckpt")
    with np.load(GOLDEN / "expected.npz") as expected:
        assert list(bundle.entries) == expected["names"].tolist()
        rows = zip(bundle.entries.items(), expected["shapes"], expected["sums"], strict=True)
        for (name, entry), shape, total in rows:
            array = bundle[name]
            assert array.shape == entry.shape == tuple(map(int, shape.split()))
            assert array.dtype == entry.dtype == (np.int64 if name == "global_step" else np.float32)
            assert array.sum(dtype=np.float64) == total
        values = [name.removeprefix("value/") for name in expected if name.startswith("value/")]
        assert "bert/embeddings/word_embeddings" in values
        assert "bert/pooler/dense/bias/adam_v" in values
        for name in values:
            assert np.array_equal(bundle[name], expected[f"value/{name}"])


def test_every_type_and_several_data_files() -> None:
    bundle = Bundle(GOLDEN / "types.ckpt")
    for name in ("float16", "float32", "float64", "int32", "int64", "bfloat16"):
        dtype = bfloat16 if name == "bfloat16" else np.dtype(name)
        assert bundle.entries[name].dtype == dtype
        assert np.array_equal(bundle[name], np.arange(6).reshape(2, 3).astype(dtype))
    assert {entry.shard for entry in bundle.entries.values()} == {0, 1}


@pytest.mark.parametrize(
    ("name", "words"), [("string", "type 7"), ("partitioned", "slices"), ("empty", "empty")]
)
def test_types_that_bert_never_uses_are_refused_on_request(name: str, words: str) -> None:
    bundle = Bundle(GOLDEN / "types.ckpt")
    with pytest.raises(BadInputError, match=f"types.ckpt.index: '{name}' is .*{words}.*; save"):
        bundle[name]


def test_a_name_that_is_not_there() -> None:
    bundle = Bundle(GOLDEN / "types.ckpt")
    assert "bert/x" not in bundle
    with pytest.raises(KeyError):
        bundle["bert/x"]


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_a_missing_an_empty_and_a_cut_file(prefix: Path, name: str) -> None:
    path = prefix.with_name(name)
    whole = path.read_bytes()
    for length in (0, 47, 48, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        damaged(path, prefix, "download it again")
    path.unlink()
    damaged(path, prefix, "No such file", ".index")
    path.mkdir()
    damaged(path, prefix)


def test_a_cut_data_file_is_noticed_before_anything_is_read(prefix: Path) -> None:
    path = prefix.with_name(DATA)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInputError, match=f"{DATA} is damaged .*'global_step'"):
        Bundle(prefix)


def test_a_changed_bit_of_the_data(prefix: Path) -> None:
    path = prefix.with_name(DATA)
    whole = path.read_bytes()
    entries = Bundle(prefix).entries
    for name in ("bert/embeddings/LayerNorm/beta", "bert/pooler/dense/kernel", "global_step"):
        for position in (entries[name].offset, entries[name].offset + entries[name].size - 1):
            changed = bytearray(whole)
            changed[position] ^= 16
            path.write_bytes(changed)
            damaged(path, prefix, repr(name), "checksum")


def test_a_changed_bit_of_the_index(prefix: Path) -> None:
    path = prefix.with_name(INDEX)
    whole = path.read_bytes()
    # Block, its checksum, and magic number; not what is never read: see the next test.
    for position in (0, 1, 100, len(whole) // 2, len(whole) - 48 - 3, len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        path.write_bytes(changed)
        damaged(path, prefix, "download it again")
    path.write_bytes(whole[:-8] + b"\x57\xfb\x80\x8b\x24\x75\x47\xda")
    damaged(path, prefix, "not that of a TensorFlow index")
    path.write_bytes(bytes(5 << 20) + whole)
    damaged(path, prefix, "larger")


def test_any_other_damage_of_the_index_is_noticed_or_without_effect(prefix: Path) -> None:
    path = prefix.with_name(INDEX)
    whole = path.read_bytes()
    right = arrays(prefix)
    rng = random.Random(0)  # noqa: S311
    refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            start = rng.choice([rng.randrange(len(whole)), len(whole) - rng.randint(1, 60)])
            if rng.random() < 0.2:
                del changed[start : start + rng.randint(1, 20)]
            else:
                changed[start : start + rng.randint(1, 4)] = rng.randbytes(rng.randint(1, 8))
        path.write_bytes(changed)
        tensors = outcome(prefix)
        if isinstance(tensors, str):
            refused += 1
            assert INDEX in tensors
        else:
            assert tensors.keys() == right.keys()
            assert all(np.array_equal(tensors[name], right[name]) for name in right)
    assert refused > 350


def test_any_table_with_the_right_checksums_is_refused_or_read(prefix: Path) -> None:
    rng = random.Random(0)  # noqa: S311
    lawful = entry(size=8, dims=(2,))
    for _ in range(400):
        changed = bytearray(entries((b"", header()), (b"a", lawful), (b"ab", lawful)))
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.choice([0, 1, 7, 0x7F, 0x80, 0xFF])
        prefix.with_name(INDEX).write_bytes(table(bytes(changed)))
        tensors = outcome(prefix)
        assert prefix.name in tensors if isinstance(tensors, str) else tensors.keys() <= {"a", "ab"}


def varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness)


def entry(
    dims: tuple[int, ...] = (2,), shard: int = 0, offset: int = 0, size: int = 8, dtype: int = 1
) -> bytes:
    shape = b"".join(field(2, field(1, dim)) for dim in dims)
    position = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, dtype) + field(2, shape) + position


def entries(*items: tuple[bytes, bytes]) -> bytes:
    """A block without its trailer."""
    packed = [varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in items]
    return b"".join(packed) + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")


def trailer(block: bytes, compression: int = 0) -> bytes:
    crc = google_crc32c.value(block + bytes([compression]))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return bytes([compression]) + masked.to_bytes(4, "little")


def table(block: bytes, handle: bytes | None = None, compression: int = 0) -> bytes:
    """An index of one block, or with another handle of it."""
    block += trailer(block, compression)
    handle = varint(0) + varint(len(block) - 5) if handle is None else handle
    index_block = entries((b"~", handle))
    footer = varint(0) * 2 + varint(len(block)) + varint(len(index_block))
    return block + index_block + trailer(index_block) + footer.ljust(40, b"\0") + MAGIC


def tensor(**changes: int | tuple[int, ...]) -> bytes:
    return table(entries((b"", header()), (b"a", entry(**changes))))  # type: ignore[arg-type]


LAWFUL = entries((b"", header()), (b"a", entry()))
LIES = {
    "size": (tensor(size=HUGE, dims=(HUGE // 4,)), "'a'"),
    "offset": (tensor(offset=HUGE), "'a'"),
    "negative offset": (tensor(offset=2**64 - 8), "'a'"),
    "negative dimension": (tensor(dims=(2**64 - 2,)), "shape"),
    "shape": (tensor(dims=(HUGE, HUGE)), "shape"),
    "shape of nothing": (tensor(dims=(0, HUGE, HUGE), size=0), "empty"),
    "rank": (tensor(dims=(1,) * 400), "400 dimensions"),
    "long rank": (tensor(dims=(HUGE,) * 100_000), "100000 dimensions"),
    "shard": (tensor(shard=HUGE), "No such file"),
    "type": (tensor(dtype=HUGE), "type"),
    "string": (tensor(dtype=7, size=HUGE), "'a'"),
    "shards": (table(entries((b"", header(HUGE)), (b"a", entry()))), "No such file"),
    "no header": (table(entries((b"a", entry()))), "header"),
    "nothing": (table(entries()), "header"),
    "big-endian": (table(entries((b"", header(1, 1)))), "big-endian"),
    "block beyond the file": (table(LAWFUL, varint(0) + varint(HUGE)), "past the end"),
    "block at no place": (table(LAWFUL, varint(HUGE) + varint(9)), "past the end"),
    "no block": (table(LAWFUL, b""), "number"),
    "endless number": (table(LAWFUL, b"\xff" * 40), "number"),
    "handle of the places": (LAWFUL + b"\x80" * 40 + MAGIC, "number"),
    "places at no place": (LAWFUL + varint(HUGE) * 4 + b"\0" * 4 + MAGIC, "past the end"),
    "compressed": (table(LAWFUL, compression=1), "compressed"),
    "restarts": (table(LAWFUL[:-4] + b"\xff" * 4), "shorter"),
    "empty block": (table(b""), "shorter"),
    "shared key": (table(varint(5) + varint(1) + varint(0) + b"a" + b"\0" * 4), "longer"),
    "long key": (table(varint(0) + varint(HUGE) + varint(0) + b"\0" * 4), "longer"),
    "long value": (table(varint(0) + varint(0) + varint(HUGE) + b"\0" * 4), "longer"),
    "cut entry": (table(b"\0" + b"\0" * 4), "longer"),
    "name": (table(entries((b"", header()), (b"\xff\xfe", entry()))), "utf-8"),
    "field": (table(entries((b"", header()), (b"a", b"\x12" + varint(HUGE)))), "longer"),
    "encoding": (table(entries((b"", header()), (b"a", b"\x0b"))), "wire type"),
    "cut checksum": (table(entries((b"", header()), (b"a", b"\x35\0"))), "longer"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_with_the_right_checksums(prefix: Path, name: str) -> None:
    content, word = LIES[name]
    prefix.with_name(INDEX).write_bytes(content)
    damaged(prefix, prefix, word)


def test_the_tables_of_these_tests_are_lawful_otherwise(prefix: Path) -> None:
    prefix.with_name(INDEX).write_bytes(table(LAWFUL))
    assert Bundle(prefix).entries["a"].shape == (2,)
    damaged(prefix.with_name(DATA), prefix, "'a'", "checksum")


def test_several_blocks(prefix: Path) -> None:
    blocks = [entries((b"", header()), (b"a", entry())), entries((b"b", entry(dims=(1, 2))))]
    first, second = (block + trailer(block) for block in blocks)
    handles = [varint(0) + varint(len(blocks[0])), varint(len(first)) + varint(len(blocks[1]))]
    index_block = entries((b"aa", handles[0]), (b"c", handles[1]))
    footer = varint(0) * 2 + varint(len(first + second)) + varint(len(index_block))
    content = first + second + index_block + trailer(index_block) + footer.ljust(40, b"\0") + MAGIC
    prefix.with_name(INDEX).write_bytes(content)
    tensors = Bundle(prefix).entries
    assert {name: entry.shape for name, entry in tensors.items()} == {"a": (2,), "b": (1, 2)}


def test_names_that_would_fill_the_memory(prefix: Path) -> None:
    # Each name is the one before it and another byte.
    block = entries((b"", header()))[:-8]
    block += b"".join(varint(n) + varint(1) + varint(0) + b"a" for n in range(500_000))
    prefix.with_name(INDEX).write_bytes(table(block + b"\0" * 4))
    damaged(prefix.with_name(INDEX), prefix, "longer")


def test_a_block_that_is_named_many_times(prefix: Path) -> None:
    block = LAWFUL + trailer(LAWFUL)
    index_block = entries(*[(b"~", varint(0) + varint(len(LAWFUL)))] * 100_000)
    footer = varint(0) * 2 + varint(len(block)) + varint(len(index_block))
    content = block + index_block + trailer(index_block) + footer.ljust(40, b"\0") + MAGIC
    prefix.with_name(INDEX).write_bytes(content)
    damaged(prefix.with_name(INDEX), prefix, "overlap")
