"""The formats of corpora. Help, messages, documentation and the drill are generated from it."""

from __future__ import annotations

import glob

from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.jsonl import JsonLines
from pipelines.data.sources.python_docs import PythonDocs
from pipelines.data.sources.source import Source
from pipelines.data.sources.text import TextFiles
from pipelines.data.sources.tfds import TensorFlowDataset

SOURCES: tuple[type[Source], ...] = (PythonDocs, TextFiles, JsonLines, TensorFlowDataset)


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
    if glob.glob(spec):  # noqa: PTH207
        raise BadArgumentsError(
            f"corpus {spec!r} does not name its format; try '{TextFiles.scheme}:{spec}'"
        )
    raise BadArgumentsError(f"corpus {spec!r} has an unknown format; write {forms()}")
