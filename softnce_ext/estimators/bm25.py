"""BM25 between the texts of a batch, from the token ids the batch carries anyway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bm25 import BM25, TokenIds

if TYPE_CHECKING:
    import torch

    from ..bm25 import BM25Factors

# The features of one column of a batch, as sentence-transformers makes them.
Features = Mapping[str, Any]

SIDES = ("text-text", "text-code", "code-code")
TEMPERATURES = ("fixed", "scaled")
# What the paper's temperature was chosen for: batches of CodeBERT and GraphCodeBERT, and about as
# many words in a documentation.
PUBLISHED_BATCH = 32
PUBLISHED_WORDS = 18
# From this many scores on (64 MiB) they go to the loss as factors, which it multiplies in blocks.
_FACTOR_SCORES = 1 << 24
_TEXTS_AT_ONCE = 4096
PROMPT_LENGTH = "prompt_length"  # the library's feature, an int or a Tensor of one
_ALIKE = 8  # texts
_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3


class InBatchBM25:
    """How similar the pairs of a batch are, by BM25 over their token ids.

    The statistics of words (idf) are the batch's own.

    Args:
        special_ids: Token ids that are no words (padding, separators); they are skipped.
        sides: What is compared with what. "text-text", as in the paper: a query with the other
            queries, since two functions documented alike are likely to do the same. "text-code": a
            query with the codes. "code-code": a query's own code with the other codes, which alone
            finds code that was copied under another documentation.
        avgdl: Mean document length of the data set, in tokens; None: that of each batch. The
            published code takes `average_length` of the training queries.
        temperature: "fixed", as published, or "scaled" by `temperature_factor`. A fixed
            temperature means a sharper softmax in a larger batch and with longer texts: between
            whole functions nearly all of it goes to the most similar one, be it a copy or not.
            Scaled, it means what it means in the paper: documentation, in batches of 32.
        k1: Saturation of a term's count.
        b: Share of the length normalisation.
        variant: As in `softnce_ext.BM25`; "reference" is what the paper's code computes.

    Raises:
        TypeError, ValueError: As in `softnce_ext.BM25`; `sides` or `temperature` is no such word.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Section 3.2 and D.2.
    """

    preset = "bm25"

    def __init__(
        self,
        special_ids: Iterable[int] = (),
        *,
        sides: str = "text-text",
        avgdl: float | None = None,
        temperature: str = "fixed",
        k1: float = 1.2,
        b: float = 0.75,
        variant: str = "reference",
    ) -> None:
        for name, value, choices in (
            ("sides", sides, SIDES),
            ("temperature", temperature, TEMPERATURES),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        self.special_ids = np.array(sorted(set(special_ids)), dtype=np.int64)
        self.sides = sides
        # How many columns of features are read, None: all; others need not be gathered over ranks.
        self.columns_read = 1 if sides == "text-text" else None
        self.temperature = temperature
        self.bm25 = BM25(k1=k1, b=b, variant=variant, avgdl=avgdl)

    def __call__(self, sentence_features: Sequence[Features]) -> torch.Tensor | BM25Factors:
        """Return the raw similarities, float32 [N, M], or as factors.

        Factors where the scores are many, and where a code has nothing to compare, which only they
        can say: it is without words or, with sides "text-text", a further code without a query.
        """
        import torch

        queries, documents = self._texts(sentence_features)
        others = queries if documents is None else documents
        scores = (len(queries.offsets) - 1) * (len(others.offsets) - 1)
        has_further = self.sides == "text-text" and len(sentence_features) > 2
        if scores > _FACTOR_SCORES or has_further or not _word_counts(others).all():
            return self.factors(sentence_features)
        found = torch.from_numpy(self.bm25.scores(queries, documents))
        if self.temperature == "scaled":
            found /= temperature_factor(found.shape[1], _mean_words(queries))
        return found.to(sentence_features[0]["input_ids"].device)

    def factors(self, sentence_features: Sequence[Features]) -> BM25Factors:
        """Return the same similarities as two sparse factors, without the matrix [N, M].

        Args:
            sentence_features: One column of features each: of the queries, of their codes and of
                further codes.

        Returns:
            What `softnce_ext.soft_info_nce` takes as `similarity`, on the features' device.

        Raises:
            ValueError: The features hold no token ids.
        """
        queries, documents = self._texts(sentence_features)
        factors = self.bm25.factors(queries, documents)
        if self.temperature == "scaled":
            factor = temperature_factor(len(factors.document_length), _mean_words(queries))
            factors = factors._replace(weight=factors.weight / factor)
        return factors.to(sentence_features[0]["input_ids"].device)

    def _texts(self, columns: Sequence[Features]) -> tuple[TokenIds, TokenIds | None]:
        """Return the words that are compared with others, and these; None where both are one."""
        if self.sides == "text-text":
            return self._words(columns[0]), None
        if len(columns) < 2:
            raise ValueError(f"sides {self.sides} needs a column of codes, got 1 column")
        codes = [self._words(column) for column in columns[1:]]
        if self.sides == "text-code":
            return self._words(columns[0]), _joined(codes)
        return codes[0], _joined(codes) if len(codes) > 1 else None

    def _words(self, features: Features) -> TokenIds:
        """Return a column's own texts with -1 in place of special ids."""
        texts = own_token_ids(features)
        if not len(self.special_ids):
            return texts
        return TokenIds(
            np.where(np.isin(texts.ids, self.special_ids), -1, texts.ids), texts.offsets
        )


def temperature_factor(documents: int, words: float) -> float:
    """Return how much larger the temperature must be than for the paper's batches.

    ``sqrt(log(documents) / log(32)) * words / 18``. A score is a sum over the query's words, and a
    rare word's idf grows with log(documents), but so does the number of negatives to be told apart.
    The square root was chosen on mined pairs of Python and Java: with it the share of rows in
    which one negative takes more than half of the softmax stays where it is in batches of 32.

    Args:
        documents: How many documents a query is compared with.
        words: Mean number of words of a query.
    """
    growth = math.log(max(documents, 2)) / math.log(PUBLISHED_BATCH)
    return math.sqrt(growth) * max(words, 1.0) / PUBLISHED_WORDS


def token_ids(features: Features) -> TokenIds:
    """Return a column's texts as flat token ids, without padding; prompts are part of them.

    Args:
        features: `input_ids` [N, L] with `attention_mask` [N, L], a static encoder's flat
            `input_ids` [T] with `offsets` [N], or unpadded `input_ids` [1, T] with
            `cu_seq_lens_q` [N + 1].

    Raises:
        ValueError: The features are none of these.
    """
    if "input_ids" not in features:
        raise ValueError(f"sentence_features must hold input_ids, got {sorted(features)}")
    ids = features["input_ids"].detach().cpu().numpy()
    if "cu_seq_lens_q" in features:
        offsets = features["cu_seq_lens_q"].detach().cpu().numpy()
        return TokenIds(ids.reshape(-1), offsets.astype(np.int64))
    if ids.ndim == 1 and "offsets" in features:
        offsets = features["offsets"].detach().cpu().numpy()
        return TokenIds(ids, np.append(offsets, len(ids)).astype(np.int64))
    if ids.ndim == 2 and "attention_mask" in features:
        mask = features["attention_mask"].detach().cpu().numpy().astype(bool)
        return TokenIds(ids[mask], np.append(0, np.cumsum(mask.sum(1))).astype(np.int64))
    raise ValueError(
        "sentence_features must hold input_ids [N, L] with attention_mask, or flat input_ids "
        f"with offsets, got {sorted(features)} with input_ids of shape {list(ids.shape)}"
    )


def own_token_ids(features: Features) -> TokenIds:
    """Return a column's texts without the prompt that was put before each of them.

    A word of every text tells none apart, and the published idf of such words is far below 0: with
    a prompt counted, the longest texts would be the most similar ones.

    A prompt is what all the column's texts begin with, up to the features' `prompt_length`. That
    alone does not say it: it may count a space at the prompt's end, which is a part of a text's
    first word. A static encoder's features do not have it; there texts have a prompt where more of
    them begin alike than would by chance.
    """
    texts = token_ids(features)
    starts, lengths = texts.offsets[:-1], np.diff(texts.offsets)
    told = prompt_length(features)
    is_guessed = told is None and "offsets" in features and len(starts) >= _ALIKE
    if len(starts) == 0 or (told is None and not is_guessed):
        return texts
    shortest = int(lengths.min())
    bound = shortest if told is None else min(told, shortest)
    length = 0
    while length < bound and (texts.ids[starts + length] == texts.ids[starts[0] + length]).all():
        length += 1
    if length == 0 or (is_guessed and length == shortest):  # the same text again and again
        return texts
    place = np.arange(len(texts.ids)) - np.repeat(starts, lengths)
    return TokenIds(
        texts.ids[place >= length],
        texts.offsets - length * np.arange(len(texts.offsets)),
    )


def prompt_length(features: Features) -> int | None:
    """Return how many tokens the features say that a prompt has at most, special ones included."""
    told = features.get(PROMPT_LENGTH)
    if told is None:
        return None
    return int(told.reshape(-1)[0]) if hasattr(told, "reshape") else int(told)


def special_ids(tokenizer: Any) -> list[int]:
    """Return the ids of a tokenizer's special tokens, be it of transformers or of tokenizers."""
    if hasattr(tokenizer, "all_special_ids"):
        return [int(token) for token in tokenizer.all_special_ids]
    added = tokenizer.get_added_tokens_decoder()
    return [number for number, token in added.items() if token.special]


def model_special_ids(model: Any) -> list[int]:
    """Return the special ids of a SentenceTransformer's rows, tokens it puts first among them."""
    # UniXcoder's mode token is an ordinary entry of the vocabulary, and in every text.
    first = getattr(model[0], "prefix", ())
    return sorted({*special_ids(model.tokenizer), *first})


def published_special_ids(tokenizer: Any) -> list[int]:
    """Return the ids the paper's code skips: 0 to 3, and no others.

    So UniXcoder's mode token counts as a word of every text.

    Raises:
        ValueError: It is no RoBERTa tokenizer, in which these ids are not the special tokens.
    """
    vocabulary = tokenizer.get_vocab()
    found = [vocabulary.get(token) for token in _ROBERTA_SPECIAL]
    if found != [0, 1, 2, 3]:
        raise ValueError(
            "the published ids rule is for RoBERTa's tokenizers, whose tokens "
            f"{', '.join(_ROBERTA_SPECIAL)} have the ids 0 to 3, got {found}"
        )
    return [0, 1, 2, 3]


def average_length(model: Any, texts: Sequence[str], task: str = "query") -> float:
    """Return the mean length of texts in tokens, special ones included: the published avgdl.

    The published code counts special tokens here, but not in the length of a document. A prompt is
    part of neither.

    Args:
        model: The SentenceTransformer to train; it cuts texts off at its own bound.
        texts: The training queries ("document" as `task` for codes).
        task: What sentence-transformers calls the side.

    Raises:
        ValueError: There are no texts.
    """
    if len(texts) == 0:
        raise ValueError("texts must hold at least one text, got none")
    tokens = 0
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = list(texts[start : start + _TEXTS_AT_ONCE])
        features = model.preprocess(some, task=task)
        tokens += len(token_ids(features).ids)
    return tokens / len(texts)


def _word_counts(texts: TokenIds) -> np.ndarray[Any, Any]:
    words = np.append(0, np.cumsum(texts.ids >= 0))
    return np.diff(words[texts.offsets])


def _mean_words(texts: TokenIds) -> float:
    return float((texts.ids >= 0).sum()) / max(len(texts.offsets) - 1, 1)


def _joined(columns: Sequence[TokenIds]) -> TokenIds:
    """Return texts of several columns one after the other."""
    if len(columns) == 1:
        return columns[0]
    ends = [column.offsets[1:] - column.offsets[:-1] for column in columns]
    offsets = np.append(0, np.cumsum(np.concatenate(ends)))
    return TokenIds(np.concatenate([column.ids for column in columns]), offsets)
