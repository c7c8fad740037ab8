"""Names of special tokens in texts, which are plain text here and tokens in transformers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bert_jax.runtime.console import say


class SpecialWords:
    """Counts the texts that contain the name of a special token.

    Attributes:
        names: Of the special tokens.
        count: Texts since the last report.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.count = names, 0
        self._example = ""
        self._pattern = re.compile("|".join(map(re.escape, names)))

    def note(self, texts: Iterable[str]) -> None:
        """Count texts."""
        for text in texts:
            if match := self._pattern.search(text):
                self.count += 1
                self._example = self._example or match[0]

    def report(self) -> None:
        """Print the count, if there is one, and begin again."""
        if self.count:
            say(
                f"texts that contain {self._example} or another special token: {self.count:,}; it"
                " is read as plain text, as in google-research/bert (transformers: as the token,"
                " unless split_special_tokens is true)"
            )
        self.count, self._example = 0, ""
