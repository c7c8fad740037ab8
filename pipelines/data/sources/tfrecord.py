"""Corpora of TFRecord files, read without TensorFlow.

A record is its length (uint64) and the checksum of the length, then its bytes and their checksum;
the checksums are masked CRC-32C.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources import files
from pipelines.data.sources.locations import File, readable
from pipelines.data.sources.tables import Table, TableFiles
from pipelines.data.sources.tf_examples import row_of
from pipelines.masked_crc import masked_crc

_HEADER, _FOOTER = struct.Struct("<QI"), struct.Struct("<I")


class TfRecordTable(Table):
    """The rows of one TFRecord file."""

    def count(self) -> int:
        """Count the records by their headers."""
        with readable(self.file), self.file.open() as content:
            return sum(1 for _ in _skipped(content, self.file))

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        """See `Table.rows`."""
        del columns
        return (row_of(record) for record in self.records(start, end))

    def records(self, start: int, end: int, total: int = -1) -> Iterator[bytes]:
        """Yield the bytes of records `start` to `end` - 1.

        Args:
            start: The first record.
            end: The record behind the last one.
            total: Records of the file, if they are known.

        Raises:
            BadInputError: The file is damaged, or has more records than `total`.
        """
        with readable(self.file), self.file.open() as content:
            for _ in islice(_skipped(content, self.file), start):
                pass
            for _ in range(start, end):
                length = _length(content, self.file)
                record = content.read(length)
                [checksum] = _FOOTER.unpack(_exactly(content, _FOOTER.size, self.file))
                if masked_crc(record) != checksum:
                    raise _damaged(self.file, content.tell())
                yield record
            if end == total and content.tell() != self.file.size:
                raise BadInputError(
                    f"{self.file} has more than the {total:,} rows that dataset_info.json lists;"
                    " prepare the data set again"
                )


def _skipped(content: io.BufferedReader, file: File) -> Iterator[None]:
    """Move behind one record after the other, to the end of the file."""
    while content.tell() < file.size:
        length = _length(content, file)
        content.seek(length + _FOOTER.size, io.SEEK_CUR)
        if content.tell() > file.size:
            raise _damaged(file, file.size)
        yield


def _length(content: io.BufferedReader, file: File) -> int:
    header = _exactly(content, _HEADER.size, file)
    length, checksum = _HEADER.unpack(header)
    if masked_crc(header[:8]) != checksum:
        raise _damaged(file, content.tell())
    if length > files.MAX_DOCUMENT:
        raise BadInputError(
            f"{file}: a record of more than {files.MAX_DOCUMENT >> 20} MiB begins before offset"
            f" {content.tell():,}; remove it"
        )
    return int(length)


def _exactly(content: io.BufferedReader, size: int, file: File) -> bytes:
    data = content.read(size)
    if len(data) != size:
        raise _damaged(file, content.tell())
    return data


def _damaged(file: File, offset: int) -> BadInputError:
    return BadInputError(
        f"{file} is damaged or not a TFRecord file: wrong checksum or end before offset {offset:,};"
        " restore it"
    )


class TfRecords(TableFiles):
    """TFRecord files."""

    scheme = "tfrecord"
    form = "tfrecord:GLOB[#FIELD[@KEY]]"
    summary = 'tf.train.Example messages in TFRecord files; the text is in FIELD (default "text")'
    example = "tfrecord:c4/*.tfrecord-*#text"
    table = TfRecordTable
