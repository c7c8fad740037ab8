"""Rows in the form of TensorFlow: serialized ``tf.train.Example`` messages."""

from __future__ import annotations

from functools import cache
from typing import Any

from pipelines.data.sources.rows import BadRowError


def row_of(record: bytes) -> dict[str, Any] | BadRowError:
    """Parse a serialized Example with the parser of tensorflow_datasets.

    Returns:
        Feature -> its value, or the list of its values; the fields of nested features are joined
        by dots. A BadRowError if it is no Example.
    """
    try:
        example = _message().FromString(record)
    except Exception:  # protobuf has one exception class per implementation
        return BadRowError("it is not a serialized tf.train.Example")
    return {
        name.replace("/", "."): _value(feature)
        for name, feature in example.features.feature.items()
    }


def _value(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values: Any = getattr(feature, kind).value if kind else []
    return values[0] if len(values) == 1 else list(values)


@cache
def _message() -> Any:
    # Importing it takes a second, so other corpora do not.
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example
