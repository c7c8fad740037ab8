"""Real text beside the checkout, where there is some."""

from __future__ import annotations

import os
from pathlib import Path

from support.commands import ROOT

DATA = Path(os.environ.get("BERT_JAX_DATA", ROOT.parent / "shared" / "data"))
TEXT = DATA / "pretrain" / "wiki_books_01.txt.xz"
VOCABULARY = DATA / "vocab" / "bert-base-uncased-vocab.txt"
