"""Static encoders: one vector per word piece, a text is the mean of its pieces, of length 1.

The tokenizer does all of the text's preparation itself, so that the saved model is plain
sentence-transformers and gives the same vectors where this package is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

UNKNOWN = "[UNK]"
# Where a word ends: at what is neither letter nor digit, before a capitalised word, at the edge of
# an acronym and of a number; the same places as in `split_identifiers`.
WORD_EDGE = (
    r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    r"|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])"
)
# Adam moves every row by some learning rates, so rows start small against them: half the length
# gained 0.005 to 0.01 MRR on validation packages.
INITIAL_LENGTH = 0.5
# Share of random directions that keep pieces apart which a pretrained encoder finds alike.
RANDOM_SHARE = 0.5


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, *, max_length_tokens: int | None = None
) -> Tokenizer:
    """Train a byte-pair tokenizer that splits identifiers and lower-cases inside itself.

    Pieces have no mark for the middle of a word, so that "parser" and "xmlparser" share theirs.

    Args:
        texts: What to train on; read once.
        vocab_size: Largest number of pieces (characters are always kept).
        max_length_tokens: Pieces beyond this are cut off, in training and after loading; None
            for no bound.

    Raises:
        ValueError: A number is out of range.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    if vocab_size < 1:
        raise ValueError(f"vocab_size must be >= 1, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(WORD_EDGE), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[UNKNOWN], show_progress=False),
    )
    if max_length_tokens is not None:
        tokenizer.enable_truncation(max_length_tokens)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
    """Return the piece ids of each text, int64."""
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(each.ids, dtype=np.int64) for each in encoded]


def inverse_document_frequency(
    ids: Iterable[np.ndarray[Any, Any]], vocab_size: int
) -> np.ndarray[Any, Any]:
    """Return ``log((n + 1) / (df + 1))`` of every piece over n texts, float32 [V]."""
    frequency = np.zeros(vocab_size)
    count = 0
    for text in ids:
        frequency[np.unique(text)] += 1
        count += 1
    return np.log((count + 1) / (frequency + 1)).astype(np.float32)


def build_static_encoder(
    tokenizer: Tokenizer, idf: np.ndarray[Any, Any], dimension: int, *, seed: int = 0
) -> SentenceTransformer:
    """Return an untrained encoder: a random direction per piece, as long as the piece is rare.

    Args:
        tokenizer: From `build_tokenizer`.
        idf: Length of each piece's vector, up to a common factor, float32 [V].
        dimension: Width D of the vectors.
        seed: Of the directions.

    Raises:
        ValueError: `idf` does not fit the vocabulary, or `dimension` is below 1.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding

    size = tokenizer.get_vocab_size()
    if idf.shape != (size,):
        raise ValueError(f"idf must have shape [{size}], got {list(idf.shape)}")
    if dimension < 1:
        raise ValueError(f"dimension must be >= 1, got {dimension}")
    directions = _random_directions(size, dimension, seed)
    rows = INITIAL_LENGTH * torch.from_numpy(idf)[:, None] * directions
    rows[tokenizer.token_to_id(UNKNOWN)] = 0.0  # an unknown piece says nothing yet
    return SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=rows), Normalize()],
        device="cpu",
        similarity_fn_name="cosine",
    )


def init_from(
    model: SentenceTransformer,
    encoder: SentenceTransformer,
    *,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Turn a static encoder's vectors to where a pretrained encoder puts their pieces, in place.

    Each piece's direction becomes its centred vector in `encoder`, beside random directions in
    the dimensions left over; its length stays.

    Args:
        model: From `build_static_encoder`.
        encoder: Encodes the pieces, as texts.
        seed: Of the random directions.
        progress: Show a progress bar on stderr.

    Raises:
        ValueError: `encoder` is wider than `model`.
    """
    import torch

    module: Any = model[0]
    rows: torch.Tensor = module.embedding.weight.data
    pieces = sorted(module.tokenizer.get_vocab().items(), key=lambda item: item[1])
    vectors: torch.Tensor = encoder.encode(
        [piece for piece, _ in pieces],
        batch_size=256,
        show_progress_bar=progress,
        convert_to_tensor=True,
    )
    vectors = vectors.to(rows.device, rows.dtype)  # [V, Dt]
    spare = rows.shape[1] - vectors.shape[1]
    if spare < 0:
        raise ValueError(
            f"dimension must be at least the {vectors.shape[1]} of the encoder to start from, "
            f"got {rows.shape[1]}"
        )
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
    if spare:
        random = RANDOM_SHARE * _random_directions(len(vectors), spare, seed).to(vectors)
        vectors = torch.nn.functional.normalize(torch.cat([vectors, random], dim=1), dim=1)
    rows.copy_(vectors * rows.norm(dim=1, keepdim=True))


def _random_directions(rows: int, width: int, seed: int) -> Any:
    """Return independent directions of length about 1, float32 [rows, width]."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) / width**0.5
