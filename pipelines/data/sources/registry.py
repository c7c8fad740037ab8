"""The formats of corpora. Help, messages, documentation and the drill are generated from it."""

from __future__ import annotations

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.array_record import ArrayRecords
from pipelines.data.sources.arrow import Arrow
from pipelines.data.sources.json_array import JsonArrays
from pipelines.data.sources.jsonl import JsonLines
from pipelines.data.sources.locations import find
from pipelines.data.sources.parquet import Parquet
from pipelines.data.sources.python_docs import PythonDocs
from pipelines.data.sources.source import Source
from pipelines.data.sources.text import TextFiles
from pipelines.data.sources.tfds import TensorFlowDataset
from pipelines.data.sources.tfrecord import TfRecords
from pipelines.data.sources.warc import Warc
from pipelines.data.sources.whole_files import WholeFiles
from pipelines.data.sources.wikiextractor import WikiExtractor
from pipelines.data.sources.wikipedia import Wikipedia

SOURCES: tuple[type[Source], ...] = (
    PythonDocs,
    TextFiles,
    WholeFiles,
    JsonLines,
    JsonArrays,
    Parquet,
    Arrow,
    TensorFlowDataset,
    TfRecords,
    ArrayRecords,
    Wikipedia,
    WikiExtractor,
    Warc,
)


def forms() -> str:
    """List the forms of a specification: "a, b or c"."""
    *others, last = (source.form for source in SOURCES)
    return f"{', '.join(others)} or {last}"


def corpus_help() -> str:
    """Return the help text of ``--corpus``."""
    return f"{forms()}; may be repeated"


def open_source(spec: str) -> Source:
    """Open the source that a specification names.

    Raises:
        BadArgumentsError: The specification has none of the forms.
        BadInputError: The source has no such text.
    """
    scheme, _, name = spec.partition(":")
    for source in SOURCES:
        if spec == source.form or (scheme == source.scheme != source.form and name):
            return source(spec)
    if find(spec):
        raise BadArgumentsError(
            f"corpus {spec!r} does not name its format; try '{TextFiles.scheme}:{spec}'"
        )
    raise BadArgumentsError(f"corpus {spec!r} has an unknown format; write {forms()}")
