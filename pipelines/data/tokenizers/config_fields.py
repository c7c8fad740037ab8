"""Every key that transformers writes into the files beside a BERT vocabulary, and its treatment.

Source: BertTokenizer, PreTrainedTokenizerFast and their base classes in transformers 5.24, and of
older versions back to pytorch-transformers 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.json_fields import HARMLESS, USED, Field, only

# Names of the special tokens -> the tokens of BERT.
NAMED_SPECIALS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Further special tokens: a name or a list of tokens, or tokens by name.
MORE_SPECIALS = (
    *("bos_token", "eos_token", "additional_special_tokens", "extra_special_tokens"),
    "model_specific_special_tokens",
)
# Tokenizers with the algorithm of BERT.
_CLASSES = (
    "Bert",
    "DistilBert",
    "Electra",
    "MobileBert",
    "ConvBert",
    "Lxmert",
    "Funnel",
    "LayoutLM",
)
_GENERIC = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_ENDINGS = ("Tokenizer", "TokenizerFast", "TokenizerLegacy")


def content(token: Any) -> Any:
    """Return the text of a token, which is a string or an object."""
    return token.get("content") if isinstance(token, dict) else token


def _special(token: str) -> Field:
    return Field(
        True,
        lambda value: value is None or content(value) == token,
        f"BERT's token is {token}; use a model with BERT's special tokens",
    )


SPECIAL_TOKENS_FIELDS: Mapping[str, Field] = {
    **{name: _special(token) for name, token in NAMED_SPECIALS.items()},
    **dict.fromkeys(MORE_SPECIALS, USED),
}

_RIGHT = "rows are padded and cut on the right; set it to right if results on long texts may differ"
_HARMLESS = """
    backend is_local local_files_only name_or_path _name_or_path use_fast from_slow legacy
    fast_tokenizer_files vocab_file tokenizer_file special_tokens_map_file added_tokens_file
    model_max_length max_len max_length stride padding truncation truncation_strategy
    pad_to_max_length pad_to_multiple_of pad_token_type_id pad_token_id unk_token_id cls_token_id
    sep_token_id mask_token_id return_tensors model_input_names processor_class chat_template
    response_template chat_control_tokens clean_up_tokenization_spaces errors add_bos_token
    add_eos_token verbose trust_remote_code _commit_hash
"""

TOKENIZER_FIELDS: Mapping[str, Field] = {
    **SPECIAL_TOKENS_FIELDS,
    **dict.fromkeys(_HARMLESS.split(), HARMLESS),
    **dict.fromkeys(("do_lower_case", "strip_accents", "tokenize_chinese_chars"), USED),
    **dict.fromkeys(("max_input_chars_per_word", "added_tokens_decoder"), USED),
    "tokenizer_class": only(
        *(name + ending for name in _CLASSES for ending in _ENDINGS),
        *_GENERIC,
        remedy="its rules are not BERT's; if they are, set it to BertTokenizer",
        is_used=True,
    ),
    "do_basic_tokenize": only(
        True, remedy="BERT splits text into words first; use a model that does"
    ),
    "never_split": only(
        [],
        list(NAMED_SPECIALS.values()),
        remedy="transformers 5 ignores it, and so does bert-jax; remove it to accept that",
    ),
    "split_special_tokens": HARMLESS,
    "padding_side": only("right", remedy=_RIGHT),
    "truncation_side": only("right", remedy=_RIGHT),
    "wordpieces_prefix": only("##", remedy="BERT's pieces begin with ##; use such a model"),
    "clean_text": only(True, remedy="BERT removes control characters; use such a model"),
    "init_inputs": only([], remedy="BERT's tokenizer has none; use such a model"),
    "pad_token_type": HARMLESS,
    "auto_map": only(
        {},
        remedy="the tokenizer has code of its own, which is never executed; if it is BERT's, remove"
        " auto_map from the file",
    ),
}
