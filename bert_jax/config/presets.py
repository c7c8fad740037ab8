"""The published networks by name."""

from __future__ import annotations

from collections.abc import Mapping

# Sizes of the paper (base, large) and of the published miniatures (Turc et al. 2019):
# layers, hidden size, attention heads; the feed-forward size is always 4 x hidden.
_SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
_VOCABULARY_SIZES = {"": 30_522, "-uncased": 30_522, "-cased": 28_996}
_OTHER_VOCABULARIES = {
    "base-multilingual-uncased": 105_879,
    "base-multilingual-cased": 119_547,
    "base-chinese": 21_128,
    # The same networks; only the masking differs (data.whole_words).
    "large-uncased-whole-word-masking": 30_522,
    "large-cased-whole-word-masking": 28_996,
}

# name -> (vocabulary size, layers, hidden size, attention heads)
PRESETS: Mapping[str, tuple[int, int, int, int]] = {
    f"bert-{size}{casing}": (vocabulary, *shape)
    for size, shape in _SIZES.items()
    for casing, vocabulary in _VOCABULARY_SIZES.items()
} | {
    f"bert-{name}": (vocabulary, *_SIZES[name.partition("-")[0]])
    for name, vocabulary in _OTHER_VOCABULARIES.items()
}
