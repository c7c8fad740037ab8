"""ROUGE, the overlap of a text with a reference summary (Lin 2004).

Words are runs of letters and digits of any script, and single Chinese and Japanese characters. On
ASCII text these are the words of Google's rouge-score, which drops all other letters. There is no
stemming: Porter's stemmer is for English only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

ROUGE = ("rouge1", "rouge2", "rougeL")

# Limits of the greedy search: sentences to choose, first sentences to search and first words of the
# summary. Its time and memory grow with sentences times words.
_MOST_ORACLE, ORACLE_SENTENCES, _ORACLE_WORDS = 3, 512, 1024
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def words(text: str) -> list[str]:
    """Return the lower-case words of a text."""
    return _WORD.findall(text.lower())


def oracle(sentences: Sequence[str], summary: str) -> list[int]:
    """Return the sentences of a greedy search for the best match with a summary.

    It adds the sentence that most increases the sum of the F1 of ROUGE-1 and ROUGE-2, until no
    sentence does or there are three. Bigrams do not cross sentences. The search covers the first
    512 sentences and the first 1,024 words of the summary.
    """
    target_words = words(summary)[:_ORACLE_WORDS]
    split = [words(sentence) for sentence in sentences[:ORACLE_SENTENCES]]
    tables = [_matches(split, target_words, n) for n in (1, 2)]
    chosen: list[int] = []
    best_value = 0.0
    while len(chosen) < min(_MOST_ORACLE, len(split)):
        values = np.zeros(len(split))
        for counts, totals, target in tables:
            overlap = np.minimum(counts[chosen].sum(axis=0) + counts, target).sum(axis=1)
            # The F1 of overlap / total and overlap / target.
            size = totals[chosen].sum() + totals + target.sum()
            values += 2 * overlap / np.maximum(size, 1)
        values[chosen] = 0.0
        best = int(values.argmax())
        if values[best] <= best_value:
            break
        best_value = float(values[best])
        chosen.append(best)
    return sorted(chosen)


def rouge(references: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Return the mean F1 of ROUGE-1, ROUGE-2 and ROUGE-L of texts and references, from 0 to 1."""
    # It imports all of nltk, which takes more than a second.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE, tokenizer=_Words())
    scores = [scorer.score(a, b) for a, b in zip(references, texts, strict=True)]
    return {name: float(np.mean([score[name].fmeasure for score in scores])) for name in ROUGE}


class _Words:
    """`words` as a tokenizer of rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def ngrams(sequence: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """Return all n-grams."""
    return zip(*(sequence[start:] for start in range(n)), strict=False)


def _matches(
    sentences: Sequence[Sequence[str]], summary: Sequence[str], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the G different n-grams of a summary in each of S sentences.

    Returns:
        These counts, int32 [S, G]; the number of all n-grams of each sentence, int32 [S]; the
        counts in the summary, int32 [G].
    """
    in_summary = Counter(ngrams(summary, n))
    column = {ngram: number for number, ngram in enumerate(in_summary)}
    counts = np.zeros((len(sentences), len(in_summary)), np.int32)
    for row, sentence in zip(counts, sentences, strict=True):
        for ngram in ngrams(sentence, n):
            if ngram in column:
                row[column[ngram]] += 1
    totals = np.array([max(0, len(sentence) - n + 1) for sentence in sentences], np.int32)
    return counts, totals, np.fromiter(in_summary.values(), np.int32, len(in_summary))
