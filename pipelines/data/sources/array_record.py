"""Corpora of array_record files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File, is_url
from pipelines.data.sources.tables import Table, TableFiles
from pipelines.data.sources.tf_examples import row_of

_BATCH = 256  # records that are read together


class ArrayRecordTable(Table):
    """The rows of one array_record file."""

    def count(self) -> int:
        with closing(_opened(self.file)) as reader:
            return int(reader.num_records())

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        """See `Table.rows`."""
        del columns
        return (row_of(record) for record in self.records(start, end))

    def records(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of records `start` to `end` - 1.

        Raises:
            BadInputError: The file is damaged.
        """
        with closing(_opened(self.file)) as reader:
            for first in range(start, end, _BATCH):
                last = min(first + _BATCH, end)
                try:
                    records = reader.read(first, last)
                except Exception as error:  # the errors of its C++ code have no common class
                    raise _damaged(self.file, error) from None
                if len(records) != last - first:
                    raise _damaged(self.file, f"{len(records)} of {last - first} rows are left")
                yield from records


def _opened(file: File) -> Any:
    from array_record.python import array_record_module

    if is_url(file.name):
        raise BadInputError(f"{file}: array_record files are read from disks only; copy it first")
    try:
        reader = array_record_module.ArrayRecordReader(file.name)
        if not reader.ok():
            raise _damaged(file, "its index cannot be read")
    except BadInputError:
        raise
    except Exception as error:
        raise _damaged(file, error) from None
    return reader


def _damaged(file: File, reason: object) -> BadInputError:
    text = " ".join(str(reason).split())[:200]
    return BadInputError(f"{file} is damaged or not an array_record file: {text}; restore it")


class ArrayRecords(TableFiles):
    """Files of array_record."""

    scheme = "array_record"
    form = "array_record:GLOB[#FIELD[@KEY]]"
    summary = 'tf.train.Example messages in array_record files; the text is in FIELD ("text")'
    example = "array_record:c4/*.array_record-*#text"
    table = ArrayRecordTable
