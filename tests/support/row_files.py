"""Files of rows in every format that is read as a table, each written by its own library."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.masked_crc import masked_crc

Row = dict[str, Any]


def write_parquet(folder: Path, rows: Sequence[Row], row_group_size: int = 7) -> str:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(list(rows))
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=row_group_size)
    return f"parquet:{folder}/a.parquet"


def write_arrow(folder: Path, rows: Sequence[Row], batch_size: int = 7) -> str:
    import pyarrow

    table = pyarrow.Table.from_pylist(list(rows))
    with pyarrow.ipc.new_stream(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_size)
    state = {"_data_files": [{"filename": "a.arrow"}]}
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    return f"arrow:{folder}"


def write_json(folder: Path, rows: Sequence[Row]) -> str:
    (folder / "a.json").write_text(json.dumps(list(rows)), "utf-8")
    return f"json:{folder}/a.json"


def write_jsonl(folder: Path, rows: Sequence[Row]) -> str:
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return f"jsonl:{folder}/a.jsonl"


def example(row: Row) -> bytes:
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    for name, value in row.items():
        if isinstance(value, str):
            message.features.feature[name].bytes_list.value.append(value.encode())
        else:
            message.features.feature[name].int64_list.value.append(value)
    serialized: bytes = message.SerializeToString()
    return serialized


def write_tfrecord(folder: Path, rows: Sequence[Row]) -> str:
    with (folder / "a.tfrecord").open("wb") as file:
        for row in rows:
            data = example(row)
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc(length)))
            file.write(data + struct.pack("<I", masked_crc(data)))
    return f"tfrecord:{folder}/a.tfrecord"


def write_array_record(folder: Path, rows: Sequence[Row]) -> str:
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for row in rows:
        writer.write(example(row))
    writer.close()
    return f"array_record:{folder}/a.array_record"


WRITERS: dict[str, Callable[[Path, Sequence[Row]], str]] = {
    "parquet": write_parquet,
    "arrow": write_arrow,
    "json": write_json,
    "jsonl": write_jsonl,
    "tfrecord": write_tfrecord,
    "array_record": write_array_record,
}
