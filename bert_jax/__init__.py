"""BERT pre-training in JAX: the model and how it learns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.models.api import Bert

__version__ = "0.1.0"


def load(model: str | Path) -> Bert:
    """Opens a trained model to use it here.

    Args:
        model: A run folder or RUN/checkpoints/STEP, a Hugging Face folder, or a folder of
            google-research/bert.

    Returns:
        An object with ``encode(texts)``, ``fill_mask(text)`` and, for a fine-tuned model,
        ``predict(file)``. It computes on the first device of this process, in the dtype of the
        model's config (``model.dtype``; float32 for models of others' making).

    Raises:
        BadInputError: There is no model, or it is damaged.

    Source: the formats are those of transformers (``config.json``, ``model.safetensors``) and of
    google-research/bert (``bert_config.json``, ``bert_model.ckpt``).
    """
    # The package knows arrays only; what knows files and text stands on it, so it is named late.
    from pipelines.models.api import Bert

    return Bert(model)
