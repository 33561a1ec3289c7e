from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from softnce_ext.encoders.static import (
    UNKNOWN,
    build_static_encoder,
    build_tokenizer,
    init_from,
    inverse_document_frequency,
    tokenize,
)
from softnce_ext.encoders.text import split_identifiers

TEXTS = [
    "def parseHTTPResponse(raw_bytes): return raw_bytes.split(b'\\r\\n')",
    "read the lines of a file into a list",
    "class MyList2D: max_len2 = XMLParser().UTF8decode(x1)",
    "send a mail to an address; the body is a str",
]


@pytest.mark.parametrize(
    "text", [*TEXTS, "", "  ", "ABC aBc a_b __init__ 3d f64x x=1e-3", "a" * 99]
)
def test_tokenizer_splits_words_as_the_lexical_side_does(text: str) -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    assert tokenizer.normalizer.normalize_str(text).split() == split_identifiers(text)


def test_tokenizer_is_the_same_every_time_and_bounded() -> None:
    texts = TEXTS * 5
    assert build_tokenizer(texts, 90).to_str() == build_tokenizer(texts, 90).to_str()
    assert build_tokenizer(texts, 90).get_vocab_size() == 90


def test_pieces_are_shared_between_words_and_ends_of_words() -> None:
    tokenizer = build_tokenizer(["parser parser xml xml"] * 9, 16)
    assert tokenizer.encode("xmlparser").tokens == ["xml", "parser"]


def test_length_bound_survives_saving(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    tokenizer = build_tokenizer(TEXTS, 200, max_length_tokens=3)
    idf = np.ones(tokenizer.get_vocab_size(), np.float32)
    build_static_encoder(tokenizer, idf, 8).save_pretrained(str(tmp_path))
    model = SentenceTransformer(str(tmp_path), device="cpu")
    short, long = model.encode(["read the lines", "read the lines of a file into a list"])
    assert (short == long).all()


def test_inverse_document_frequency_counts_texts_not_tokens() -> None:
    idf = inverse_document_frequency([np.array([1, 1, 2]), np.array([1])], 4)
    assert idf.dtype == np.float32
    assert idf == pytest.approx(np.log([3 / 1, 3 / 3, 3 / 2, 3 / 1]))


def test_rows_are_as_long_as_their_piece_is_rare() -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    size = tokenizer.get_vocab_size()
    idf = inverse_document_frequency(tokenize(tokenizer, TEXTS), size)
    rows = build_static_encoder(tokenizer, idf, 512)[0].embedding.weight
    known = torch.arange(size) != tokenizer.token_to_id(UNKNOWN)
    ratio = rows.norm(dim=1)[known] / torch.from_numpy(idf)[known]
    assert ratio.min() > 0.4 and ratio.max() < 0.6
    assert not rows[tokenizer.token_to_id(UNKNOWN)].any()


def test_seed_decides_the_directions() -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    idf = np.ones(tokenizer.get_vocab_size(), np.float32)
    first, same, other = (
        build_static_encoder(tokenizer, idf, 8, seed=seed)[0].embedding.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_text_without_a_known_piece_gets_a_finite_vector() -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    model = build_static_encoder(tokenizer, np.ones(tokenizer.get_vocab_size(), np.float32), 8)
    assert np.isfinite(model.encode(["", "§§", "日本", "read"])).all()


def test_init_from_turns_rows_and_keeps_their_lengths() -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    size = tokenizer.get_vocab_size()
    lengths = np.linspace(0.5, 3, size, dtype=np.float32)
    model = build_static_encoder(tokenizer, lengths, 24)
    start = build_static_encoder(tokenizer, np.ones(size, np.float32), 8, seed=5)
    rows = model[0].embedding.weight.data
    before = rows.clone()
    init_from(model, start)
    assert torch.allclose(rows.norm(dim=1), before.norm(dim=1), atol=1e-6)

    vectors = torch.from_numpy(start.encode([tokenizer.id_to_token(i) for i in range(size)]))
    wanted = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
    found = torch.nn.functional.normalize(rows[:, :8], dim=1)
    kept = torch.arange(size) != tokenizer.token_to_id(UNKNOWN)  # its row is zero and stays so
    assert torch.allclose(found[kept], wanted[kept], atol=1e-5)
    assert rows[kept, 8:].norm(dim=1).min() > 0


def test_init_from_refuses_a_wider_encoder() -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    ones = np.ones(tokenizer.get_vocab_size(), np.float32)
    model, start = (build_static_encoder(tokenizer, ones, width) for width in (4, 8))
    with pytest.raises(ValueError, match="dimension must be at least the 8 .*, got 4"):
        init_from(model, start)


def test_bad_arguments_are_named() -> None:
    tokenizer = build_tokenizer(TEXTS, 200)
    with pytest.raises(ValueError, match="vocab_size must be >= 1, got 0"):
        build_tokenizer(TEXTS, 0)
    with pytest.raises(ValueError, match=r"idf must have shape \[\d+\], got \[3\]"):
        build_static_encoder(tokenizer, np.ones(3, np.float32), 8)
    with pytest.raises(ValueError, match="dimension must be >= 1, got 0"):
        build_static_encoder(tokenizer, np.ones(tokenizer.get_vocab_size(), np.float32), 0)
