"""The text of a file of labeled data, plain or compressed."""

from __future__ import annotations

from bert_jax.runtime.errors import BadInputError
from pipelines.data.sources.locations import File, readable
from pipelines.data.sources.recognition import HEAD, recognize

JSON_LINES, JSON_ARRAY = "JSON Lines", "a JSON array"  # as in `recognize`
_SUFFIXES = {
    "a Parquet file": ".parquet",
    "an Arrow file": ".arrow",
    "an Arrow stream": ".arrow",
    JSON_LINES: ".jsonl",
    JSON_ARRAY: ".json",
}


def text_of(file: File, accepted: tuple[str, ...] = ()) -> str:
    """Return the text of a UTF-8 file.

    Args:
        file: The file.
        accepted: Formats of `recognize` that the file may have, besides plain text.

    Raises:
        BadInputError: It cannot be read, or has another encoding or format. The message has the
            remedy.
    """
    with readable(file), file.open_text() as content:
        data = content.read()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadInputError(f"{file} is UTF-16; convert it: iconv -f utf-16 -t utf-8 '{file}'")
    kind, remedy = recognize(data[:HEAD]) or ("", "")
    if kind and kind not in accepted:
        if kind in _SUFFIXES:
            remedy = f"rename it to end with {_SUFFIXES[kind]}"
        elif "{" in remedy:
            remedy = "choose a table"
        raise BadInputError(f"{file} is {kind}; {remedy}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInputError(
            f"{file}, line {line} is not UTF-8: byte 0x{data[error.start]:02x}; convert it, for"
            f" example with iconv -f latin1 -t utf-8 '{file}'"
        ) from None


def starts_with(file: File, sign: bytes) -> bool:
    """Return whether the text of a file begins with a sign, after white space."""
    with readable(file), file.open_text() as content:
        return content.peek().removeprefix(b"\xef\xbb\xbf").lstrip().startswith(sign)
