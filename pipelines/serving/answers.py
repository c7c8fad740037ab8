"""Answers of a model to requests: the same as those of the commands."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.nn.tensor_names import HEAD, MLM, NSP, parts
from bert_jax.runtime.errors import BadArgumentsError, UserError
from bert_jax.runtime.paths import absolute
from bert_jax.training.state import parameter_count
from pipelines.data.tokenizers.tokenizer import SentencePieceTokenizer, Tokenizer
from pipelines.models.fill_mask import answers, read_masked
from pipelines.models.open import LoadedModel
from pipelines.serving.batching import Batcher, Row
from pipelines.serving.compiled import CompiledFunctions
from pipelines.serving.tasks import ServedTask
from pipelines.tasks import sequences
from pipelines.tasks.task import Record

MAX_MASKS = 16  # per text
MAX_ATTENTION = 128  # tokens of an attention map: the answer has a number for each pair of tokens

_HEALTH_TIMEOUT = 30.0  # seconds for the smallest answer, with its compilation

# Arrays of a row with a value per token.
_PER_TOKEN = ("token_ids", "token_type_ids", "segment_ids")


class Answers:
    """A model that answers requests of any number of coroutines of one event loop.

    Attributes:
        served: The task of a fine-tuned model, or None.
        abilities: Names of the endpoints of the model, the most specific first.
        described: Facts about the model.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Serve a model.

        Raises:
            BadInputError: Its tokenizer, or a part that its task needs, is missing.
        """
        self.tokenizer, self.network = model.tokenizer(), model.network
        heads = parts(model.weights.params)
        self.served = served = ServedTask.of(model, self.tokenizer) if HEAD in heads else None
        compiled = CompiledFunctions(model, self.tokenizer, served.network if served else None)
        self.batcher = Batcher(compiled.run, compiled.kind)
        # The pair head is random if no objective trained it.
        objective = model.run.data.objective if model.run else "nsp"
        paired = NSP in heads and objective != "mlm"
        attention = ["attention"] if self.network.encoder != "lstm" else []
        self.abilities = [
            *(served.tasks if served else ()),
            *(["fill-mask"] if MLM in heads else ()),
            *(["next-sentence"] if paired else ()),
            "similarity",
            *attention,
            "tokenize",
        ]
        self.described = _described(model, self.tokenizer) | {
            "objective": objective if paired else None,
            "abilities": self.abilities,
            "length": served.length if served else self.network.max_positions,
        }

    async def failure(self) -> str:
        """Return why the model cannot answer the smallest request; empty if it can."""
        ids = np.array([self.tokenizer.cls_id, self.tokenizer.sep_id], np.int32)
        row = {"token_ids": ids, "token_type_ids": np.zeros_like(ids)}
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await self.batcher.results("vector", [row])
        except TimeoutError:
            return f"the device did not answer for {_HEALTH_TIMEOUT:g} seconds"
        except UserError as error:
            return str(error)
        except Exception as error:  # it cannot contain texts of other users
            return f"{type(error).__name__}: {error}"
        return ""

    async def fill_mask(self, text: str, top_k: int) -> dict[str, Any]:
        """Fill masks; see `pipelines.models.fill_mask`.

        Raises:
            BadArgumentsError: The text has no mask or too many, or is too long.
        """
        masked = read_masked(self.tokenizer, text, self.network.max_positions)
        if len(masked.positions) > MAX_MASKS:
            raise BadArgumentsError(
                f"the text has {len(masked.positions)} masks, but a request has at most"
                f" {MAX_MASKS}; remove some"
            )
        arrays = sequences.rows([masked.ids[1:-1]], [[]], self.tokenizer, len(masked.ids))
        row = _row(arrays) | {"mlm_positions": np.array(masked.positions, np.int32)}
        ((probabilities, ids),) = await self.batcher.results("fill-mask", [row])
        count = len(masked.positions)
        ids, probabilities = ids[:count, :top_k], probabilities[:count, :top_k]
        return {"masks": answers(self.tokenizer, masked, ids, probabilities)}

    async def next_sentence(self, text: str, pair: str) -> dict[str, Any]:
        """Return the probability that `pair` follows `text`."""
        a, b = self.tokenizer.encode([text, pair])
        longest = self.network.max_positions
        row = _row(sequences.rows([a], [b], self.tokenizer, longest))
        (probabilities,) = await self.batcher.results("next-sentence", [row])
        return {"follows": float(probabilities[0]), "truncated": len(a) + len(b) + 3 > longest}

    async def similarity(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the cosines of the vectors of `bert_jax.load(MODEL).encode`."""
        room, tokenizer = self.network.max_positions - 2, self.tokenizer
        encoded = tokenizer.encode(texts)
        rows = []
        for ids in encoded:
            whole = np.array([tokenizer.cls_id, *ids[:room], tokenizer.sep_id], np.int32)
            rows.append({"token_ids": whole, "token_type_ids": np.zeros_like(whole)})
        vectors = np.stack(await self.batcher.results("vector", rows)).astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
        cosines = np.clip(unit @ unit.T, -1.0, 1.0)
        return {"cosines": cosines.tolist(), "truncated": [len(ids) > room for ids in encoded]}

    async def attention(self, text: str, pair: str | None, layer: int) -> dict[str, Any]:
        """Return the attention of a layer; see `Bert.attention_probabilities`.

        Raises:
            BadArgumentsError: There is no such layer, or the texts are too long.
        """
        if not 1 <= layer <= self.network.layers:
            raise BadArgumentsError(
                f"layer {layer} does not exist; choose one of the layers 1 to {self.network.layers}"
            )
        row = self._whole_row(text, pair, min(self.network.max_positions, MAX_ATTENTION))
        (attention,) = await self.batcher.results("attention", [row])
        T = len(row["token_ids"])
        heads = np.round(attention[layer - 1, :, :T, :T].astype(np.float64), 5)
        return {"tokens": self._pieces(row), "layer": layer, "heads": heads.tolist()}

    async def tokenize(self, text: str, pair: str | None) -> dict[str, Any]:
        """Return the tokens of a text or pair; [MASK] is the mask token.

        Raises:
            BadArgumentsError: There are more than the model accepts.
        """
        longest = self.network.max_positions
        pieces = self._pieces(self._whole_row(text, pair, longest))
        unknown = sum(piece["unknown"] for piece in pieces)
        return {"tokens": pieces, "unknown": unknown, "longest": longest}

    async def task(self, name: str, request: Any) -> Record:
        """Return the prediction of a fine-tuned model.

        Args:
            name: The endpoint, one of `ServedTask.tasks`.
            request: Of the type ``endpoint.request`` of that task.
        """
        assert self.served is not None  # noqa: S101
        task = self.served.tasks[name]
        examples = await asyncio.to_thread(task.from_request, request)
        features = await asyncio.to_thread(self.served.features, task, examples)
        outputs = await self.batcher.results("task", self.served.rows(features))
        return await asyncio.to_thread(self.served.response, task, examples, features, outputs)

    def _whole_row(self, text: str, pair: str | None, longest: int) -> Row:
        a = self.tokenizer.encode_masked(text)
        b = self.tokenizer.encode_masked(pair) if pair else []
        needed = len(a) + len(b) + 2 + bool(b)
        if needed > longest:
            raise BadArgumentsError(
                f"the text has {needed} tokens, but a request has at most {longest}; shorten it"
            )
        return _row(sequences.rows([a], [b], self.tokenizer, longest))

    def _pieces(self, row: Row) -> list[dict[str, Any]]:
        tokenizer = self.tokenizer
        special = {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}
        return [
            {
                "piece": tokenizer.pieces[token],
                "id": token,
                "segment": segment,
                "position": position,
                "unknown": token == tokenizer.unk_id,
                "special": token in special,
            }
            for position, (token, segment) in enumerate(
                zip(row["token_ids"].tolist(), row["token_type_ids"].tolist(), strict=True)
            )
        ]


def _row(arrays: dict[str, np.ndarray]) -> Row:
    """Return the only row of some arrays, without padding."""
    count = int(arrays["segment_ids"][0].sum())
    return {name: arrays[name][0, :count] for name in _PER_TOKEN}


def _described(model: LoadedModel, tokenizer: Tokenizer) -> dict[str, Any]:
    config = model.network
    kind = "SentencePiece" if isinstance(tokenizer, SentencePieceTokenizer) else "WordPiece"
    tuned = model.finetune
    return {
        "name": absolute(model.folder).name,
        "architecture": model.weights.architecture or f"BERT for {tuned.task if tuned else '?'}",
        "step": model.step,
        "parameters": parameter_count(model.weights.params),
        "layers": config.layers,
        "heads": None if config.encoder == "lstm" else config.heads,
        "hidden_size": config.hidden_size,
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": kind,
        "labels": list(model.weights.labels),
    }
