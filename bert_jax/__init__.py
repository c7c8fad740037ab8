"""BERT in JAX: the network and its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipelines.models.api import Bert

__version__ = "0.1.0"


def load(model: str | Path, dtype: Literal["", "float32", "bfloat16"] = "") -> Bert:
    """Open a trained model for use in Python.

    Args:
        model: A run folder or RUN/checkpoints/STEP, ``hf:ORG/NAME[@REVISION]`` on the Hugging Face
            hub, a Hugging Face folder, or a folder of google-research/bert.
        dtype: Of matrix multiplications, float32 or bfloat16; empty = that of the model
            (``model.dtype``; float32 for models that other programs trained).

    Returns:
        A model with the methods ``encode(texts)``, ``fill_mask(text)`` and, if it is fine-tuned,
        ``predict(file)``. It computes on the first device of this process.

    Raises:
        BadArgumentsError: The dtype does not exist.
        BadInputError: The folder contains no model, or a damaged one.

    Source: the file formats of transformers (``config.json``, ``model.safetensors``) and of
    google-research/bert (``bert_config.json``, ``bert_model.ckpt``).
    """
    # Imported late: pipelines depends on bert_jax, not the other way around.
    from pipelines.models.api import Bert

    return Bert(model, dtype)
