"""Read data sets of tensorflow_datasets in every format that it writes, without TensorFlow."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.array_record import ArrayRecordTable
from pipelines.data.sources.locations import escaped, find, is_url
from pipelines.data.sources.parquet import ParquetTable
from pipelines.data.sources.tables import Table
from pipelines.data.sources.tf_examples import row_of
from pipelines.data.sources.tfrecord import TfRecordTable

TFDS = "tfds:"

# A version consists of digits and dots, a split may be train[:10%]+test, and a name may be a path.
_NAME = re.compile(
    r"(?P<name>.+?(?::\d+(?:\.[\d*]+)*)?)(?::(?P<split>{part}(?:\+{part})*))?".replace(
        "{part}", r"[A-Za-z_]\w*(?:\[[^\]]*\])?"
    ),
    re.DOTALL,
)
# Formats that are read here, and their tables; of several, the first is the fastest.
_TABLES: dict[str, type[Table]] = {
    "array_record": ArrayRecordTable,
    "tfrecord": TfRecordTable,
    "parquet": ParquetTable,
}
_INFO = "dataset_info.json"
_PARQUET_COLUMN = "data"  # of serialized examples


@dataclass(frozen=True)
class Examples:
    """A split of a data set.

    Attributes:
        rows: Feature -> value, as plain Python objects: text is decoded, and a class is its name
            (None without a class, as in the test splits of GLUE).
        features: Names of the features.
        class_names: Feature -> names of its classes, in the order of the data set.
    """

    rows: list[dict[str, Any]]
    features: list[str]
    class_names: dict[str, list[str]]


@dataclass(frozen=True)
class DatasetTable(Table):
    """The rows of one file of a data set that belong to a split.

    Attributes:
        stored: The table of the whole file.
        first: The first row of the split.
        number: Rows of the split.
        total: Rows of the file.
    """

    stored: Table
    first: int
    number: int
    total: int

    def count(self) -> int:
        return self.number

    def rows(self, start: int, end: int, columns: Sequence[str]) -> Iterator[Any]:
        del columns
        return map(row_of, self.records(start, end))

    def records(self, start: int, end: int) -> Iterator[bytes]:
        """Yield the serialized examples `start` to `end` - 1.

        Raises:
            BadInputError: The file is damaged.
        """
        start, end = self.first + start, self.first + end
        if isinstance(self.stored, TfRecordTable):
            yield from self.stored.records(start, end, self.total)
            return
        if isinstance(self.stored, ArrayRecordTable):
            yield from self.stored.records(start, end)
            return
        for row in self.stored.rows(start, end, [_PARQUET_COLUMN]):
            yield row[_PARQUET_COLUMN]


def split_name(text: str) -> tuple[str, str]:
    """Divide NAME[/CONFIG][:VERSION][:SPLIT] into the name with its version, and the split."""
    match = _NAME.fullmatch(text)
    return (match["name"], match["split"] or "") if match else (text, "")


def read_split(source: str) -> Examples:
    """Read all examples of a split.

    Args:
        source: ``tfds:NAME[/CONFIG][:VERSION]:SPLIT``; SPLIT may be ``train[:10%]``, and NAME the
            path of a folder.

    Raises:
        BadInputError: There is no such data set or split, or it cannot be read.
    """
    name, split = split_name(source.removeprefix(TFDS))
    if not name or not split:
        raise BadInputError(f"{source} names no split; write it as in tfds:glue/sst2:train")
    builder = open_builder(name)
    features = builder.info.features
    rows: list[dict[str, Any]] = []
    for table in tables_of_split(builder, split):
        for number, record in enumerate(table.records(0, table.count())):
            try:
                row = features.deserialize_example_np(record)
            except Exception as error:  # each kind of feature raises errors of its own
                text = " ".join(str(error).split())[:200]
                raise BadInputError(
                    f"{source}: example {number} of {table.file} cannot be decoded ({text}); remove"
                    f" {builder.data_dir} to prepare the data set again"
                ) from None
            rows.append({key: _plain(features[key], row[key]) for key in row})
    classes = {key: features[key].names for key in features if _has_classes(features[key])}
    return Examples(rows, list(features), classes)


def _has_classes(feature: Any) -> bool:
    return getattr(feature, "names", None) is not None


def _plain(feature: Any, value: Any) -> Any:
    """Convert a value to what JSON can express, and classes to their names."""
    # The feature of a sequence; a sequence of dicts is a dict of lists.
    inner = getattr(feature, "feature", feature)
    if isinstance(value, dict):
        return {key: _plain(inner[key], part) for key, part in value.items()}
    if isinstance(value, list) or getattr(value, "ndim", False):
        return [_plain(inner, part) for part in value]
    if _has_classes(feature):
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")  # not UTF-8: for example an image beside the text
    # Scalars of NumPy, without importing it: the help of every command imports this module.
    return value.item() if hasattr(value, "item") else value


def tables_of_split(builder: Any, split: str) -> list[DatasetTable]:
    """List the files of a split with their rows.

    Raises:
        BadInputError: There is no such split, or rows are missing.
    """
    name, stored_as = f"{TFDS}{builder.info.full_name}", builder.info.file_format.value
    try:
        instructions = builder.info.splits[split].file_instructions
    except Exception as error:  # its type depends on the fault of the name
        text = " ".join(str(error).split())[:200]
        splits = ", ".join(builder.info.splits)
        raise BadInputError(
            f"{name} has no split {split!r} ({text}); its splits are {splits}"
        ) from None
    formats = [stored_as, *(each.value for each in builder.info.alternative_file_formats or ())]
    readable_as = next((each for each in formats if each in _TABLES), "")
    if not readable_as:
        raise BadInputError(
            f"{name} in {builder.data_dir} is stored as {stored_as}; move the folder away to"
            " prepare it again, or convert it where TensorFlow is installed: tfds convert_format"
        )
    tables = []
    for part in instructions:
        path = str(part.filename).replace(f".{stored_as}-", f".{readable_as}-")
        files = find(escaped(path))
        if not files:
            raise BadInputError(
                f"{path} is missing; move {builder.data_dir} away to prepare it again"
            )
        stored = _TABLES[readable_as](files[0])
        _check_count(stored, part.examples_in_shard)
        number = part.examples_in_shard - part.skip if part.take < 0 else part.take
        tables.append(DatasetTable(files[0], stored, part.skip, number, part.examples_in_shard))
    return tables


def _check_count(table: Table, expected: int) -> None:
    # The records of a TFRecord file are not counted: that reads the whole file.
    if isinstance(table, TfRecordTable):
        return
    count = table.count()
    if count != expected:
        raise BadInputError(
            f"{table.file} has {count:,} of the {expected:,} rows that dataset_info.json lists, so"
            " its writer lost some; prepare the data set again in the format array_record"
        )


@lru_cache(maxsize=4)
def open_builder(name: str) -> Any:
    """Return the prepared builder of a data set.

    Args:
        name: NAME[/CONFIG][:VERSION] below TFDS_DATA_DIR, or the path of a folder with
            ``dataset_info.json``.

    Raises:
        BadInputError: There is no such data set, it cannot be prepared, or it needs TensorFlow.
    """
    import tensorflow_datasets as tfds  # takes a second, so other corpora do not import it

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # one line per retry
    try:
        folder = name if is_url(name) else str(Path(name).expanduser())
        if is_url(name) or Path(folder).is_dir() or Path(folder).is_absolute():
            _check_folder(folder)
            return tfds.builder_from_directory(folder)
        builder = tfds.builder(name)
        if not builder.is_prepared():
            _check_beam(builder, tfds.core.BeamBasedBuilder, name)
            builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except tfds.core.DatasetNotFoundError:
        names = tfds.list_builders(with_community_datasets=False)
        close = difflib.get_close_matches(name.partition("/")[0], names, n=1)
        hint = f"; did you mean {close[0]}?" if close else "; check its name"
        raise BadInputError(f"there is no data set {name!r} in tensorflow_datasets{hint}") from None
    except ImportError as error:
        raise BadInputError(
            f"preparing tfds:{name} needs the package {error.name}; on a machine that has it,"
            f" run: tfds build {name} --file_format=array_record"
        ) from None
    except BadInputError:
        raise
    except Exception as error:  # builders raise errors of any type
        text = " ".join(str(error).split())[:300]
        raise BadInputError(
            f"tfds:{name} cannot be prepared ({type(error).__name__}: {text}); check the network,"
            " or the folder"
        ) from None
    return builder


def _check_folder(folder: str) -> None:
    """Refuse a folder that is not that of one version of a data set."""
    if find(escaped(f"{folder}/{_INFO}")):
        return
    below = [file.name.removesuffix(f"/{_INFO}") for file in find(f"{escaped(folder)}/**/{_INFO}")]
    remedy = f"choose {' or '.join(below[:3])}" if below else "check its name"
    raise BadInputError(f"{folder} has no {_INFO}; {remedy}")


def _check_beam(builder: Any, beam_builder: type, name: str) -> None:
    """Refuse a builder that would download the data before it reports the missing package."""
    if isinstance(builder, beam_builder) and find_spec("apache_beam") is None:
        raise BadInputError(
            f"preparing tfds:{name} needs Apache Beam; first run: pip install 'bert-jax[beam]'"
        )
