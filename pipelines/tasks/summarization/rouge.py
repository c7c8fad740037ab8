"""ROUGE: how much of a summary that a person wrote is in a text (Lin 2004).

Words are runs of letters and digits of any script, and single Chinese and Japanese characters. On
ASCII text these are the words of Google's rouge-score, which loses all other letters. They are not
stemmed: Porter's stemmer is for English.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

ROUGE = ("rouge1", "rouge2", "rougeL")

# Sentences that the greedy search takes at most, and among how many from the beginning: its time
# and memory grow with sentences times words of the summary.
_MOST_ORACLE, ORACLE_SENTENCES, _ORACLE_WORDS = 3, 512, 1024
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def words(text: str) -> list[str]:
    """Lower-cased words of a text, as they are counted here."""
    return _WORD.findall(text.lower())


def oracle(sentences: Sequence[str], summary: str) -> list[int]:
    """The sentences that a greedy search takes to come close to a summary.

    It adds the sentence that raises the sum of the F1 of ROUGE-1 and ROUGE-2 most, until none does
    or three are taken. Bigrams are those within sentences. Only the first 512 sentences are
    searched, and only the first 1,024 words of the summary looked for.
    """
    wanted = words(summary)[:_ORACLE_WORDS]
    split = [words(sentence) for sentence in sentences[:ORACLE_SENTENCES]]
    tables = [_matches(split, wanted, n) for n in (1, 2)]
    chosen: list[int] = []
    reached = 0.0
    while len(chosen) < min(_MOST_ORACLE, len(split)):
        values = np.zeros(len(split))
        for counts, totals, target in tables:
            overlap = np.minimum(counts[chosen].sum(axis=0) + counts, target).sum(axis=1)
            # The F1 of overlap / total and overlap / wanted.
            size = totals[chosen].sum() + totals + target.sum()
            values += 2 * overlap / np.maximum(size, 1)
        values[chosen] = 0.0
        best = int(values.argmax())
        if values[best] <= reached:
            break
        reached = float(values[best])
        chosen.append(best)
    return sorted(chosen)


def rouge(references: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of texts against their references, from 0 to 1."""
    # It imports all of nltk, for more than a second, which training need not wait for.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE, tokenizer=_Words())
    found = [scorer.score(a, b) for a, b in zip(references, texts, strict=True)]
    return {name: float(np.mean([one[name].fmeasure for one in found])) for name in ROUGE}


class _Words:
    """`words` as rouge-score asks for them."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def ngrams(sequence: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """Every `n` words in a row."""
    return zip(*(sequence[start:] for start in range(n)), strict=False)


def _matches(
    sentences: Sequence[Sequence[str]], summary: Sequence[str], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each of the G different n-grams of a summary is in each of S sentences.

    Returns:
        int32 [S, G]; all n-grams of each sentence, int32 [S]; those of the summary, int32 [G].
    """
    wanted = Counter(ngrams(summary, n))
    column = {ngram: number for number, ngram in enumerate(wanted)}
    counts = np.zeros((len(sentences), len(wanted)), np.int32)
    for row, sentence in zip(counts, sentences, strict=True):
        for ngram in ngrams(sentence, n):
            if ngram in column:
                row[column[ngram]] += 1
    totals = np.array([max(0, len(sentence) - n + 1) for sentence in sentences], np.int32)
    return counts, totals, np.fromiter(wanted.values(), np.int32, len(wanted))
