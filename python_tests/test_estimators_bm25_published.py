"""The BM25 estimator against the published code's loop, written out from its description."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import static_model, tiny_rows, transformer_model

from softnce_ext.bm25 import BM25
from softnce_ext.estimators import bm25 as module
from softnce_ext.estimators.bm25 import (
    InBatchBM25,
    average_length,
    published_special_ids,
    temperature_factor,
    token_ids,
)
from softnce_ext.factors import BM25Factors

BOS, PAD, EOS, UNK, MODE = 0, 1, 2, 3, 4


class Roberta:
    """As much of a RoBERTa tokenizer as the ids rule looks at."""

    def get_vocab(self) -> dict[str, int]:
        return {"<s>": BOS, "<pad>": PAD, "</s>": EOS, "<unk>": UNK, "<encoder-only>": MODE}


def published_loop(batch: list[list[int]], avgdl: float) -> list[list[float]]:
    """Okapi BM25 of each padded row of ids against each, a pair of tokens at a time."""
    k1, b, k2, count = 1.2, 0.75, 100, len(batch)
    scores = [[0.0] * count for _ in range(count)]
    lengths = [sum(1 for token in row if token > 3) for row in batch]
    for i, query in enumerate(batch):
        for token in query:
            if token <= 3:
                continue
            holding = sum(1 for row in batch if token in row)
            idf = math.log((count - holding + 0.5) / (holding + 0.5))
            for j, row in enumerate(batch):
                frequency = row.count(token)
                if frequency == 0:
                    continue
                norm = k1 * ((1 - b) + b * lengths[j] / avgdl)
                of_document = (k1 + 1) * frequency / (norm + frequency)
                of_query = (k2 + 1) * 1 / (k2 + 1)
                scores[i][j] += idf * of_document * of_query
    return scores


def random_batch(rng: np.random.Generator, *, mode_token: bool) -> tuple[list[list[int]], int]:
    """Padded rows as CodeBERT's tokenizer gives them, or UniXcoder's; Zipf's law over words."""
    rows = []
    for _ in range(int(rng.integers(1, 33))):
        words = 5 + np.minimum(rng.zipf(1.5, int(rng.integers(0, 20))), 300)
        words = np.where(rng.random(len(words)) < 0.05, UNK, words).tolist()
        begin = [BOS, MODE, EOS] if mode_token else [BOS]
        rows.append([*begin, *map(int, words), EOS])
    width = max(map(len, rows)) + int(rng.integers(0, 4))
    return [row + [PAD] * (width - len(row)) for row in rows], sum(map(len, rows))


def as_matrix(found: Any) -> torch.Tensor:
    """Factors come where a text has no words, or a code no query."""
    return found.dense() if isinstance(found, BM25Factors) else found


@pytest.mark.parametrize("mode_token", [False, True])
def test_ids_and_scores_equal_the_published_loop_on_200_batches(mode_token: bool) -> None:
    rng = np.random.default_rng(int(mode_token))
    skipped = published_special_ids(Roberta())
    for _ in range(100):
        rows, tokens = random_batch(rng, mode_token=mode_token)
        avgdl = tokens / len(rows) + float(rng.random())  # of a larger training set
        ids = torch.tensor(rows)
        features = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        estimator = InBatchBM25(skipped, avgdl=avgdl)
        words = estimator._words(features)
        kept = [[int(t) for t in words.ids[a:z] if t >= 0] for a, z in _spans(words.offsets)]
        assert kept == [[token for token in row if token > 3] for row in rows]
        wanted = np.array(published_loop(rows, avgdl))
        found = as_matrix(estimator([features, {}]))
        assert np.abs(found.numpy() - wanted).max() <= 2e-5 * max(1, np.abs(wanted).max() / 10)


def _spans(offsets: Any) -> list[tuple[int, int]]:
    return list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))


def test_the_published_ids_rule_is_for_roberta() -> None:
    assert published_special_ids(Roberta()) == [0, 1, 2, 3]
    bert = static_model(["a b"]).tokenizer
    with pytest.raises(ValueError, match="is for RoBERTa's tokenizers, whose tokens <s>"):
        published_special_ids(bert)


def test_the_average_length_counts_special_tokens(tmp_path: Path) -> None:
    queries = [row["query"] for row in tiny_rows()]
    model = transformer_model(queries, tmp_path)
    words = [len(query.replace("_", " ").split()) for query in queries]
    assert average_length(model, queries) == pytest.approx(np.mean(words) + 2)
    model.max_seq_length = 5  # longer texts are cut off, as the published code cuts them
    assert average_length(model, queries) == 5
    with pytest.raises(ValueError, match="texts must hold at least one text"):
        average_length(model, [])


def flat(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    ends = np.cumsum([len(text) for text in texts])
    return {
        "input_ids": torch.tensor([token for text in texts for token in text]),
        "offsets": torch.tensor([0, *ends[:-1].tolist()]),
    }


QUERIES = [[5, 6], [6, 7, 7], [8], [5, 9]]
CODES = [[5, 5, 10], [11, 7], [8, 12, 12], [5, 10]]
MORE = [[6, 12], [13], [5], [10, 10]]


@pytest.mark.parametrize(
    "sides, queries, documents",
    [
        ("text-text", QUERIES, QUERIES),
        ("text-code", QUERIES, CODES),
        ("code-code", CODES, CODES),
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_the_sides_are_compared(sides: str, queries: Any, documents: Any, more: bool) -> None:
    columns = [flat(QUERIES), flat(CODES), flat(MORE)][: 3 if more else 2]
    estimator = InBatchBM25(sides=sides)
    if more and sides != "text-text":
        documents = [*documents, *MORE]
    wanted = BM25().scores(queries, documents)
    found = as_matrix(estimator(columns)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        estimator.factors(columns).dense(), torch.from_numpy(wanted), rtol=0, atol=1e-6
    )


def test_copied_code_is_seen_by_code_code_alone() -> None:
    queries, codes = [[i, i + 20] for i in range(5, 15)], [[i + 40, i + 60] for i in range(5, 15)]
    codes[3] = codes[0]
    columns = [flat(queries), flat(codes)]
    for sides, seen in (("text-text", False), ("text-code", False), ("code-code", True)):
        scores = InBatchBM25(sides=sides)(columns)
        assert (scores[0, 3] > 0) == (scores[3, 0] > 0) == seen


def test_many_scores_come_as_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = [flat(QUERIES), flat(CODES)]
    wanted = InBatchBM25(temperature="scaled")(columns)
    assert isinstance(wanted, torch.Tensor)
    monkeypatch.setattr(module, "_FACTOR_SCORES", 15)
    found = InBatchBM25(temperature="scaled")(columns)
    assert isinstance(found, BM25Factors)
    torch.testing.assert_close(found.dense(), wanted, rtol=0, atol=1e-6)


def test_a_scaled_temperature_is_the_papers_in_its_batch() -> None:
    assert temperature_factor(32, 18) == 1
    assert temperature_factor(1024, 18) == pytest.approx(2**0.5)  # log(32 * 32)
    assert temperature_factor(32, 180) == pytest.approx(10)
    assert temperature_factor(1, 0) == temperature_factor(2, 1) > 0
    for count in (4, 32, 50):
        texts = flat([[5 + i, 5 + i // 2, 1, 7] for i in range(count)])
        fixed = InBatchBM25([1])([texts, {}])
        scaled = InBatchBM25([1], temperature="scaled")([texts, {}])
        factor = math.sqrt(math.log(count) / math.log(32)) * 3 / 18  # the special id is no word
        torch.testing.assert_close(scaled * factor, fixed)


def test_bad_words_are_refused() -> None:
    with pytest.raises(ValueError, match="sides must be one of text-text, .* got 'code-text'"):
        InBatchBM25(sides="code-text")
    with pytest.raises(ValueError, match="temperature must be one of fixed, scaled, got 'free'"):
        InBatchBM25(temperature="free")
    with pytest.raises(ValueError, match="sides text-code needs a column of codes, got 1 column"):
        InBatchBM25(sides="text-code")([flat(QUERIES)])
    assert len(token_ids(flat(QUERIES)).offsets) == 5
