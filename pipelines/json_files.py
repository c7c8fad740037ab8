"""Read JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bert_jax.runtime.errors import BadInputError
from bert_jax.runtime.paths import check_kind


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        BadInputError: The file cannot be read, or is not a JSON object.
    """
    check_kind(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not JSON ({error}); correct or restore the file") from None
    if not isinstance(content, dict):
        raise BadInputError(
            f"{path}: expected keys and values, found a {type(content).__name__}; restore the file"
        )
    return content
