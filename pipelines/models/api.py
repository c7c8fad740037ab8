"""``bert_jax.load``: use a trained model in a program or notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax import Array

from bert_jax.config.model import ModelConfig
from bert_jax.nn.encoder import Params, define
from bert_jax.runtime import console
from bert_jax.runtime.errors import BadArgumentsError
from pipelines.data.sources.rows import HALF_CHARACTER
from pipelines.models.fill_mask import fill_mask
from pipelines.models.open import DTYPES, Dtype, LoadedModel, open_model
from pipelines.models.states import Pooling, StatesOfTexts, hidden_states

_WINDOW = 1 << 14  # texts whose vectors are computed before the next ones


class Bert:
    """A model on the first device of this process.

    Attributes:
        model: The weights, the network and their origin.
        tokenizer: The tokenizer of the model.
    """

    def __init__(self, path: str | Path, dtype: Dtype | Literal[""] = "") -> None:
        """Open a run, a checkpoint, ``hf:ORG/NAME``, or a folder from elsewhere.

        Args:
            path: The model.
            dtype: Of matrix multiplications; empty = that of the model.

        Raises:
            BadArgumentsError: The dtype does not exist.
            BadInputError: The path contains no model, or a damaged one.
        """
        if dtype not in ("", *DTYPES):
            raise BadArgumentsError(f"dtype {dtype!r}: choose {' or '.join(DTYPES)}")
        self.model: LoadedModel = open_model(path).computing_in(dtype)
        self.tokenizer = self.model.tokenizer()
        self._states: dict[tuple[tuple[int, ...], Pooling | None], StatesOfTexts] = {}

    def encode(
        self,
        texts: Sequence[str],
        layer: int = -1,
        pooling: Pooling | None = "mean",
        batch_size: int = 32,
        progress: bool = False,
    ) -> np.ndarray | list[np.ndarray]:
        """Return vectors of texts; a text that is too long is truncated at its end.

        Args:
            texts: Any number of them.
            layer: Layer of the hidden states: 0 is the embeddings, 1 the first layer, -1 the last.
            pooling: mean or max over all tokens ([CLS] and [SEP] included), cls for the state of
                [CLS], None for the states of all tokens.
            batch_size: Rows per batch; short texts share rows.
            progress: Show how many texts are done.

        Returns:
            float32 [texts, hidden size]; without pooling, per text float32 [tokens, hidden size].

        Raises:
            BadArgumentsError: The layer or pooling does not exist, `batch_size` is below 1, or
                `texts` is not a list of Unicode strings.

        Source: layers as features, Devlin et al. 2018, section 5.3; pooling as in Sentence-BERT
        (Reimers and Gurevych 2019, section 3).
        """
        check_layers(self.model.network, (layer,))
        if pooling not in ("mean", "cls", "max", None):
            raise BadArgumentsError(f"pooling {pooling!r}: choose mean, cls, max or None")
        if batch_size < 1:
            raise BadArgumentsError(f"batch_size must be at least 1, not {batch_size}")
        ids = self._ids(texts)
        token_types = [[0] * len(tokens) for tokens in ids]
        encoded: list[Any] = [None] * len(ids)
        with console.progress("texts", len(ids)) if progress else nullcontext(_silent) as show:
            for first in range(0, len(ids), _WINDOW):
                window = slice(first, first + _WINDOW)
                states = self.states(
                    ids[window], token_types[window], (layer,), pooling, batch_size
                )
                for text, vectors in states:
                    encoded[first + text] = vectors[0]
                show(min(first + _WINDOW, len(ids)), "")
        if pooling is None:
            return encoded
        D = self.model.network.hidden_size
        return np.stack(encoded) if encoded else np.zeros((0, D), np.float32)

    def states(
        self,
        token_ids: Sequence[Sequence[int]],
        token_type_ids: Sequence[Sequence[int]],
        layers: Sequence[int],
        pooling: Pooling | None,
        batch_size: int,
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the index and the hidden states of each text, in any order.

        Args:
            token_ids: Of each text, with special tokens; at most as many as the model accepts.
            token_type_ids: Of each token.
            layers: See `encode`; several cost no more than the highest one.
            pooling: See `encode`.
            batch_size: Rows per batch; short texts share rows.

        Yields:
            The index, and float32 [layers, D], without pooling [layers, tokens, D].
        """
        L = self.model.network.layers
        indices = tuple(layer % (L + 1) for layer in layers)
        key = indices, pooling
        if key not in self._states:
            compute = partial(self._compute, self._params, indices, pooling)
            self._states[key] = StatesOfTexts(compute, self.model.network.max_positions)
        return self._states[key](token_ids, token_type_ids, pooling is not None, batch_size)

    def fill_mask(self, text: str, top_k: int = 5) -> list[list[dict[str, Any]]]:
        """Return the most probable tokens for every [MASK] of a text.

        Each mask is filled on its own; the others stay in the text.

        Args:
            text: One sequence with at least one [MASK], at most as long as the model accepts.
            top_k: Answers per mask, at least 1.

        Returns:
            Per mask, in the order of the text, a list of `top_k` answers, the most probable first:
            ``token`` (text), ``id`` (int), ``probability`` (float in [0, 1], softmax over the
            vocabulary) and ``text``, where this mask is filled in.

        Raises:
            BadArgumentsError: `text` is not a Unicode string, has no mask or too many tokens, or
                `top_k` is below 1.
            BadInputError: The model has no masked language modeling head.

        Source: the masked language model of Devlin et al. 2018, section 3.1.
        """
        if not isinstance(text, str):
            raise BadArgumentsError(f"text must be a string, not {text!r:.60}")
        self.model.require_masked_language_head()
        return fill_mask(self._params, self.model.network, self.tokenizer, text, top_k)

    def predict(
        self,
        inputs: str | Path | Sequence[Any],
        batch_size: int = 32,
        columns: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the predictions of a fine-tuned model; see ``bert-jax predict``.

        Args:
            inputs: A file, or ``tfds:NAME:SPLIT``, as for training; labels are not needed. Or a
                list: texts, pairs of texts, or dictionaries such as ``{"question": …, "context":
                …}`` with the fields of a request to ``serve``.
            batch_size: Rows per batch.
            columns: Names of columns, by the keys text, pair, label and id; others are as in
                training. ``{"pair": "none"}`` reads single texts.

        Returns:
            One dictionary per example, in their order, with the fields that ``bert-jax predict``
            writes for the task: for classification ``id``, ``label`` and ``probabilities`` (class
            to float, sum 1).

        Raises:
            BadArgumentsError: `columns` has another key, or a list contains something else.
            BadInputError: The model has no task head, or the input cannot be read.

        Source: the heads of Devlin et al. 2018, section 4.
        """
        # A task may import large libraries.
        from pipelines.models.predict import predict_file, predict_objects
        from pipelines.tasks.task import Columns

        if not isinstance(inputs, str | Path):
            return predict_objects(self.model, inputs, batch_size)
        try:
            named = Columns(**columns or {})
        except TypeError:
            raise BadArgumentsError(
                f"columns {columns!r:.60}: use the keys text, pair, label and id"
            ) from None
        return predict_file(self.model, str(inputs), batch_size, columns=named).records

    @cached_property
    def _params(self) -> Params:
        return self.model.pretraining_params()

    @cached_property
    def _compute(self) -> Callable[..., Array]:
        network = define(self.model.network)

        def states(
            params: Params, layers: tuple[int, ...], pooling: Pooling | None, batch: Any, most: int
        ) -> Array:
            return hidden_states(nnx.merge(network, params).bert, batch, layers, pooling, most)

        return jax.jit(states, static_argnums=(1, 2, 4))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if isinstance(texts, str):
            raise BadArgumentsError("texts must be a list of strings, not one string; pass [text]")
        for text in texts:
            if not isinstance(text, str):
                raise BadArgumentsError(f"texts must be strings, not {text!r:.60}")
            if HALF_CHARACTER.search(text):
                raise BadArgumentsError(f"{text[:60]!r} contains an unpaired surrogate; remove it")
        limit = self.model.network.max_positions - 2
        tokenizer = self.tokenizer
        return [
            [tokenizer.cls_id, *ids[:limit], tokenizer.sep_id] for ids in tokenizer.encode(texts)
        ]


def _silent(done: int, note: str) -> None:
    del done, note


def check_layers(network: ModelConfig, layers: Sequence[int]) -> None:
    """Refuse layers that a network does not have.

    Raises:
        BadArgumentsError: A layer does not exist.
    """
    for layer in layers:
        if not -network.layers - 1 <= layer <= network.layers:
            raise BadArgumentsError(
                f"layer {layer} does not exist; use 0 (the embeddings) to {network.layers}"
            )
