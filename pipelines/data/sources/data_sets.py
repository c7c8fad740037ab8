"""Read data sets of tensorflow_datasets from array_record files, without TensorFlow."""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bert_jax.runtime.errors import BadInputError

# Examples that are decoded together, which is three times as fast as one by one.
_CHUNK = 256


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


def read_split(name: str, split: str) -> Examples:
    """Read all examples of a split.

    Args:
        name: NAME or NAME/CONFIG.
        split: A split, such as ``train`` or ``train[:10%]``.

    Raises:
        BadInputError: There is no such data set or split, or it cannot be read.
    """
    builder = open_builder(name)
    try:
        source = builder.as_data_source(split=split)
    except Exception as error:  # its type depends on the fault of the name
        text = " ".join(str(error).split())[:200]
        splits = ", ".join(builder.info.splits)
        raise BadInputError(
            f"tfds:{name} has no split {split!r} ({text}); its splits are {splits}"
        ) from None
    features = builder.info.features
    rows: list[dict[str, Any]] = []
    for start in range(0, len(source), _CHUNK):
        numbers = range(start, min(start + _CHUNK, len(source)))
        try:
            chunk = source.__getitems__(numbers)
        except Exception as error:  # array_record raises the errors of its C++ code
            text = " ".join(str(error).split())[:200]
            raise BadInputError(
                f"tfds:{name}: examples {numbers[0]} to {numbers[-1]} of {split} cannot be read"
                f" ({text}); remove {builder.data_dir} to prepare the data set again"
            ) from None
        rows += [{key: _plain(features[key], row[key]) for key in row} for row in chunk]
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


@lru_cache(maxsize=4)
def open_builder(name: str) -> Any:
    """Return the prepared builder of a data set.

    Raises:
        BadInputError: There is no such data set, it cannot be prepared, or it needs TensorFlow.
    """
    import tensorflow_datasets as tfds  # takes a second, so other corpora do not import it

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # one line per retry

    array_record = tfds.core.file_adapters.FileFormat.ARRAY_RECORD
    try:
        builder = tfds.builder(name)
        if not builder.is_prepared():
            builder.download_and_prepare(file_format=array_record)
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
    except Exception as error:  # builders raise errors of any type
        text = " ".join(str(error).split())[:300]
        raise BadInputError(
            f"tfds:{name} cannot be prepared ({type(error).__name__}: {text}); check the network"
        ) from None
    if builder.info.file_format is not array_record:
        raise BadInputError(
            f"tfds:{name} in {builder.data_dir} is stored as {builder.info.file_format.value},"
            f" which only TensorFlow reads; build it again: tfds build {name}"
            " --file_format=array_record"
        )
    return builder
