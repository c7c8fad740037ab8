#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3: split_special_tokens=True does not make the special
# tokens of a Unigram vocabulary plain text.
#
# Expected: with split_special_tokens=True, "[SEP]" in a text is split like any other text, for every
# kind of model, so that a text from outside cannot contain a separator.
# Happens: it is, for WordPiece; a Unigram model whose vocabulary has the piece "[SEP]", as every
# vocabulary with control symbols does, finds that piece by itself and returns the id of the token.
# Hurt: who reads texts of others (chat logs, pages about NLP) and relies on the option.
#
# Fails if the behavior changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cat > "$work/observe.py" <<'PYTHON'
import sys

import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*"abcSEP[]", "▁"]
print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)


def wrapped(tokenizer):
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        split_special_tokens=True,
        **{f"{key}_token": value for key, value in names.items()},
    )


pieces = [(s, 0.0) for s in SPECIAL] + [(letter, -5.0) for letter in LETTERS]
unigram = Tokenizer(models.Unigram(pieces, unk_id=1))
unigram.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
words = {piece: number for number, piece in enumerate([*SPECIAL, "a", "b", "[", "]", "SEP"])}
wordpiece = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
found = {}
for name, tokenizer in (("WordPiece", wordpiece), ("Unigram", unigram)):
    fast = wrapped(tokenizer)
    tokens = fast.convert_ids_to_tokens(fast("a[SEP]b", add_special_tokens=False)["input_ids"])
    found[name] = "[SEP]" in tokens
    print(f"{name}: a[SEP]b ->", tokens)
if found != {"WordPiece": False, "Unigram": True}:
    sys.exit("the behavior has changed")
PYTHON
"$work/venv/bin/python" "$work/observe.py"
