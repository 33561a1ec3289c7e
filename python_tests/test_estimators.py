from __future__ import annotations

import itertools
from itertools import product

import numpy as np
import pytest
import torch

from softnce_ext.bm25 import BM25, TokenIds
from softnce_ext.distributed import alone
from softnce_ext.estimators.bm25 import InBatchBM25, own_token_ids, special_ids, token_ids
from softnce_ext.estimators.duplicates import count_masked, duplicate_groups, fingerprints
from softnce_ext.sentence_transformers.batch import gathered_features

TEXTS = [[5, 6, 7], [6, 6], [8], [5, 9, 9, 10]]


def padded(texts: list[list[int]], *, begin: int, end: int, pad: int) -> dict[str, torch.Tensor]:
    """Texts as a transformer's tokenizer gives them."""
    rows = [[begin, *text, end] for text in texts]
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows]),
    }


def flat(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Texts as a static encoder's tokenizer gives them."""
    ends = np.cumsum([len(text) for text in texts])
    return {
        "input_ids": torch.tensor([token for text in texts for token in text]),
        "offsets": torch.tensor([0, *ends[:-1].tolist()]),
    }


def test_padded_and_flat_batches_give_the_scores_of_their_words() -> None:
    wanted = BM25().scores(TEXTS)
    from_padded = InBatchBM25([0, 1, 2])([padded(TEXTS, begin=0, end=2, pad=1), {}])
    from_flat = InBatchBM25()([flat(TEXTS), {}])
    assert from_padded.dtype == torch.float32
    assert np.array_equal(from_padded.numpy(), wanted)
    assert np.array_equal(from_flat.numpy(), wanted)


def test_padding_is_left_out_by_its_mask_even_if_it_is_a_word() -> None:
    features = padded(TEXTS, begin=0, end=2, pad=5)
    assert np.array_equal(InBatchBM25([0, 2])([features]).numpy(), BM25().scores(TEXTS))


@pytest.mark.parametrize(
    "special, features",
    [
        ([0, 1, 2], padded([*TEXTS, []], begin=0, end=2, pad=1)),
        ([], flat([*TEXTS, []])),
    ],
)
def test_factors_are_those_of_the_words(
    special: list[int], features: dict[str, torch.Tensor]
) -> None:
    options = {"k1": 2.0, "b": 0.2, "variant": "lucene", "avgdl": 3.0}
    estimator = InBatchBM25(special, **options)
    factors = estimator.factors([features, {}])
    for part, right in zip(factors, BM25(**options).factors([*TEXTS, []]), strict=True):
        assert torch.equal(part, right)
    assert factors.known(5).tolist() == [True, True, True, True, False]
    for part, right in zip(estimator([features]), factors, strict=True):
        assert torch.equal(part, right)  # of the last text only factors can say that it has none


@pytest.mark.parametrize("counted", [3, 4, torch.tensor([4]), torch.tensor([4, 4, 4, 4])])
def test_a_prompt_is_no_word_of_a_text(counted: object) -> None:
    """Alone it may have a piece more, its last space, than it has before a text."""
    prompt = [20, 21]  # and [CLS]
    features = padded([prompt + text for text in TEXTS], begin=0, end=2, pad=1)
    features |= {"prompt_length": counted}
    own = own_token_ids(features)
    spans = itertools.pairwise(own.offsets.tolist())
    assert [own.ids[a:z].tolist() for a, z in spans] == [[*text, 2] for text in TEXTS]
    found = InBatchBM25([0, 1, 2])([features, {}])
    assert np.array_equal(found.numpy(), BM25().scores(TEXTS))


def test_a_prompt_that_is_not_told_is_what_many_texts_begin_with() -> None:
    texts = [*TEXTS, *([10 + i, 5] for i in range(4))]
    prompted = flat([[20, 21, *text] for text in texts])
    assert np.array_equal(InBatchBM25()([prompted, {}]).numpy(), BM25().scores(texts))
    few = flat([[20, 21, *text] for text in TEXTS])
    assert np.array_equal(own_token_ids(few).ids, token_ids(few).ids)
    for same in (flat([[5, 6]] * 8), flat([[5, 6]] * 7 + [[5, 6, 7]]), flat([])):
        assert np.array_equal(own_token_ids(same).ids, token_ids(same).ids)
    padding = {"begin": 0, "end": 2, "pad": 1}
    alike = padded([[20, 21, *text] for text in texts], **padding)  # the paper's backbones have it
    assert np.array_equal(own_token_ids(alike).ids, token_ids(alike).ids)


def test_special_ids_count_neither_as_words_nor_in_the_length() -> None:
    features = padded(TEXTS, begin=0, end=2, pad=1)
    counted = InBatchBM25()([features])
    assert not np.allclose(counted.numpy(), InBatchBM25([0, 2])([features]).numpy())


def test_options_reach_bm25() -> None:
    options = {"k1": 2.0, "b": 0.2, "variant": "lucene", "avgdl": 3.0}
    found = InBatchBM25(**options)([flat(TEXTS)])
    assert np.array_equal(found.numpy(), BM25(**options).scores(TEXTS))


def test_special_ids_of_both_kinds_of_tokenizer() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, "[UNK]"))
    tokenizer.add_special_tokens(["[UNK]", "[PAD]"])
    assert sorted(special_ids(tokenizer)) == [0, 1]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    )
    assert sorted(special_ids(wrapped)) == [0, 1]


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"pixel_values": torch.ones(2)},
        {"input_ids": torch.ones(2, 2)},
        {"input_ids": torch.ones(2)},
    ],
)
def test_features_without_token_ids_are_refused(features: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="sentence_features must hold input_ids"):
        token_ids(features)
    with pytest.raises(ValueError, match="sentence_features must hold input_ids"):
        InBatchBM25().factors([features, {}])


def ragged(texts: list[list[int]]) -> TokenIds:
    return TokenIds(
        np.array([token for text in texts for token in text], dtype=np.int64),
        np.array([0, *np.cumsum([len(text) for text in texts])]),
    )


def prints(texts: list[list[int]]) -> np.ndarray:
    return fingerprints(ragged(texts))


def test_fingerprints_are_those_of_the_words_in_their_order() -> None:
    texts = [[1, 2], [2, 1], [1], [1, 0], [0, 1], [0], [], [0, 0], [1, 2, 3], [12], [1, 2, 2**31]]
    found = prints(texts)
    assert found.dtype == np.int64 and found.shape == (len(texts), 2)
    for lane in found.T:  # each 64 bits for themselves
        assert len(set(lane.tolist())) == len(texts)
    padding = [[-1, *text, -1] for text in texts]
    assert np.array_equal(prints(padding), found)
    narrow = ragged(texts[:-1])
    assert np.array_equal(
        fingerprints(narrow._replace(ids=narrow.ids.astype(np.int32))), found[:-1]
    )


def test_fingerprints_change_by_half_their_bits_with_one_bit_of_one_word() -> None:
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 30_000, (2000, 12))
    changed = texts.copy()
    changed[np.arange(2000), rng.integers(0, 11, 2000)] ^= 1 << rng.integers(0, 15, 2000)
    one, other = (prints(side.tolist()).view(np.uint8) for side in (texts, changed))
    bits = np.unpackbits(one ^ other, axis=1).mean(0)  # how often each of the 128 changed
    assert np.all(np.abs(bits - 0.5) < 0.06)


def test_groups_are_those_of_every_shared_text() -> None:
    rng = np.random.default_rng(0)
    sides = [rng.integers(0, 3000, 2000).tolist() for _ in range(3)]
    query, code = duplicate_groups([prints([[x] for x in side]) for side in sides])
    graph = {row: {row} for row in range(2000)}
    for side in sides[:2]:
        rows_of: dict[int, list[int]] = {}
        for row, text in enumerate(side):
            rows_of.setdefault(text, []).append(row)
        for rows in rows_of.values():
            for row in rows:
                graph[row].update(rows)
    component = np.full(2000, -1)
    for start in range(2000):
        if component[start] < 0:
            todo = [start]
            while todo:
                row = todo.pop()
                if component[row] < 0:
                    component[row] = start
                    todo += graph[row]
    assert np.array_equal(query, component) and np.array_equal(code[:2000], component)
    first = {text: row for row, text in reversed(list(enumerate(sides[1])))}
    wanted = [component[first[x]] if x in first else 2000 + i for i, x in enumerate(sides[2])]
    assert np.array_equal(code[2000:], wanted)


def test_groups_join_pairs_that_share_a_query_or_a_code() -> None:
    queries = [[1], [2], [1], [3], [4], [1, 0]]
    codes = [[7], [8], [9], [8], [5], [6]]
    query, code = duplicate_groups([prints(queries), prints(codes)])
    assert query[0] == query[2] and query[1] == query[3]
    assert len(set(query.tolist())) == 4  # {0, 2}, {1, 3}, {4}, {5}
    assert np.array_equal(query, code)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal length, got \[3, 2\] rows"):
        duplicate_groups([prints([[1], [2], [3]]), prints([[7], [8]])])


def test_groups_are_chained() -> None:
    query, _ = duplicate_groups([prints([[1], [1], [2], [2]]), prints([[5], [6], [6], [7]])])
    assert len(set(query.tolist())) == 1


def test_further_codes_join_only_the_group_of_their_twin() -> None:
    query, code = duplicate_groups(
        [prints([[1], [2], [3]]), prints([[7], [8], [9]]), prints([[4], [7], [4]])]
    )
    assert code[4] == query[0]
    assert code[3] not in query and code[5] not in query


def test_masked_pairs_are_counted_like_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    queries, codes, more = ([[int(x)] for x in rng.integers(0, 12, 20)] for _ in range(3))
    query, code = duplicate_groups([prints(queries), prints(codes), prints(more)])
    pairs = sum(query[i] == code[j] for i, j in product(range(20), range(40)) if i != j)
    assert pairs > 0
    assert count_masked(query, code) == pairs


def test_ranks_are_sent_no_prompt_for_each_may_have_another() -> None:
    prompted = [padded([[20, i, *text] for text in TEXTS], begin=0, end=2, pad=1) for i in (21, 22)]
    for column in prompted:
        column["prompt_length"] = 3
    (plain,) = gathered_features([padded(TEXTS, begin=0, end=2, pad=1)], alone(4))
    for gathered in gathered_features(prompted, alone(4)):
        own = own_token_ids(gathered)
        wanted = [[*text, 2] for text in TEXTS]
        assert own.ids.tolist() == [token for text in wanted for token in text]
        # The mark of a text's begin is special; whether it is sent makes no difference.
        assert np.array_equal(InBatchBM25([0, 2])([gathered, {}]), InBatchBM25([0, 2])([plain, {}]))
