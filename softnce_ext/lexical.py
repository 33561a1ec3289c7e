"""The strong lexical baseline: BM25 of a sentence's words against every function of a code base."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .bm25 import BM25, BM25Index, TokenIds
from .encoders.text import split_identifiers

Array = npt.NDArray[Any]

# Chosen by the mean reciprocal rank of 3,020 queries on functions of CPython 3.11's standard
# library: 0.418 with the plain setting, 0.529 with these; a name counted 5 times 0.524, k1 3
# 0.526, b 0.9 or 1 within 0.005, no grams 0.48, grams without the word's edges 0.49.
_NAME_COUNT = 8
_PLUS = BM25(k1=4.0, b=0.95, variant="lucene")
_GRAM = 4
_PLAIN = BM25(k1=1.2, b=0.75, variant="lucene")  # Lucene's defaults

_TEXTS_AT_ONCE = 4096  # bounds the memory in which words become terms


class Lexical:
    """A code base, indexed by its words.

    Plain: the words of names and code, identifiers taken apart, with Lucene's BM25. Plus: names
    count 8 times, and each word's character 4-grams ("^rea", "read", "ead$") are terms too, so
    that "reading" finds "read"; k1 and b are set for code.

    Args:
        names: The functions' names.
        codes: The functions' code, in the same order.
        plus: Boost names and add 4-grams.

    Raises:
        TypeError: names or codes are no sequences of str.
        ValueError: There are not as many names as codes.
    """

    def __init__(self, names: Sequence[str], codes: Sequence[str], *, plus: bool) -> None:
        _check_texts("names", names)
        _check_texts("codes", codes)
        if len(names) != len(codes):
            raise ValueError(f"names must be as many as the {len(codes)} codes, got {len(names)}")
        self.plus = bool(plus)
        self._terms: dict[str, int] = {}
        count = _NAME_COUNT if plus else 1
        texts = (
            split_identifiers(name) * count + split_identifiers(code)
            for name, code in zip(names, codes, strict=True)
        )
        rule = _PLUS if plus else _PLAIN
        self._index = rule.index(self._token_ids(texts, grow=True))

    def __len__(self) -> int:
        return self._index.documents

    def scores(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the scores of N queries against the M functions; unknown words score 0.

        Memory is that of the result: call it for a block of queries at a time.

        Args:
            queries: Sentences.

        Returns:
            float32 [N, M], >= 0.

        Raises:
            TypeError: queries is no sequence of str.
        """
        _check_texts("queries", queries)
        return self._index.scores(self._token_ids(map(split_identifiers, queries), grow=False))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index into a folder: postings as .npy files, terms as JSON.

        Raises:
            OSError: The folder cannot be written.
        """
        self._index.save(folder)
        content = json.dumps({"plus": self.plus, "terms": list(self._terms)})
        Path(folder, "terms.json").write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Lexical:
        """Read a saved index; the postings stay on disk until they are used.

        Raises:
            OSError, ValueError, KeyError, TypeError, EOFError: A file is missing or damaged.
        """
        content = json.loads(Path(folder, "terms.json").read_text(encoding="utf-8"))
        lexical = cls.__new__(cls)
        lexical.plus = content["plus"]
        lexical._terms = {term: number for number, term in enumerate(content["terms"])}
        lexical._index = BM25Index.load(folder)
        return lexical

    def _token_ids(self, texts: Iterable[list[str]], *, grow: bool) -> TokenIds:
        """Turn words into the ids of their terms; new ones are added (grow) or left out."""
        texts = iter(texts)
        ids, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
        while block := list(islice(texts, _TEXTS_AT_ONCE)):
            numbers: dict[str, int] = {}  # of the block's distinct words
            words = np.array(
                [numbers.setdefault(word, len(numbers)) for word in chain.from_iterable(block)],
                np.int64,
            )
            terms = [self._terms_of(word, grow) for word in numbers]
            size = np.array([len(each) for each in terms], np.int64)
            start = np.cumsum(size) - size
            flat = np.fromiter(chain.from_iterable(terms), np.int32, int(size.sum()))

            ends = np.cumsum(size[words])
            shift = np.repeat(start[words] - ends + size[words], size[words])
            ids.append(flat[shift + np.arange(shift.size)])
            last_word = np.cumsum([len(text) for text in block])
            lengths.append(np.diff(np.append(0, ends)[last_word], prepend=0))
        return TokenIds(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))

    def _terms_of(self, word: str, grow: bool) -> list[int]:
        """Return the ids of a word and, in plus, of its grams; "#" sets grams apart from words."""
        terms = [word]
        if self.plus:
            edged = f"^{word}$"
            terms += ["#" + edged[i : i + _GRAM] for i in range(len(edged) - _GRAM + 1)]
        if grow:
            return [self._terms.setdefault(term, len(self._terms)) for term in terms]
        return [self._terms[term] for term in terms if term in self._terms]


def blend(dense: Array, lexical: Array, weight: float) -> npt.NDArray[np.float32]:
    """Return the hybrid score: dense + weight * lexical / (the row's largest lexical score).

    BM25 grows with the query's length while a cosine does not; divided by its row's maximum, the
    lexical part lies in [0, 1] for every query, so that one weight, chosen on validation data,
    serves all. A row without any lexical score keeps its dense scores.

    Args:
        dense: Scores of an encoder [N, M].
        lexical: Scores of the same queries and functions [N, M], >= 0.
        weight: Weight of the lexical part, >= 0.

    Returns:
        float32 [N, M].

    Raises:
        ValueError: The shapes differ, or weight is out of range.
    """
    dense, lexical = np.asarray(dense), np.asarray(lexical)
    if dense.ndim != 2 or dense.shape != lexical.shape:
        raise ValueError(
            "dense and lexical must have one shape [N, M], got "
            f"{list(dense.shape)} and {list(lexical.shape)}"
        )
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"weight must be finite and >= 0, got {weight}")
    largest = lexical.max(axis=1, keepdims=True, initial=0)
    factor = np.divide(weight, largest, out=np.zeros_like(largest), where=largest > 0)
    hybrid: npt.NDArray[np.float32] = np.multiply(lexical, factor, dtype=np.float32)
    hybrid += dense
    return hybrid


def _check_texts(name: str, texts: Sequence[str]) -> None:
    """Refuse what is no sequence of str."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a sequence of str, got one str")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] must be a str, got {type(text).__name__}")
