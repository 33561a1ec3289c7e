"""Estimators that are encoders: SimCSE between queries, a trained model between query and code.

Both give vectors whose dot products are the similarities, which the loss takes block by block. A
frozen encoder's vectors of the training texts never change: `cache` makes them once, and a step
then reads rows of a table. Without a table the encoder runs in every step, over the texts a
`RowCollator` carries, or over the student's own features where it reads a text as the student does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..encoders.saved import load_encoder
from .alike import copy_weights
from .cache import cached_table
from .collate import ROW, TEXT, model_features
from .frozen import FrozenEncoder, check_attends_to_padding, check_unit_vectors, no_gradient
from .own_texts import OwnTexts
from .table import TeacherTable

Features = Mapping[str, Any]
Pair = tuple[Tensor, Tensor]


class _EncoderEstimator:
    """What the two share: an encoder, and tables of its vectors."""

    preset = ""
    by_row = True  # a text's vector is its own: on many ranks each encodes its texts alone

    def __init__(self, model: Any) -> None:
        self.encoder = None if model is None else FrozenEncoder(_loaded(model))
        self.tables: dict[str, TeacherTable] = {}
        self._texts: dict[str, OwnTexts] = {}
        self._kind = "training"

    @property
    def is_live(self) -> bool:
        """Whether a model runs in each step, which some rows at a time are as good for as all."""
        return not self.tables

    def attach(self, student: Any, *, temperature: float | None = None) -> None:
        """Learn which model is trained; the loss calls it.

        Args:
            student: The model.
            temperature: What the loss was given; None: that of the paper's preset.

        Raises:
            ValueError: The student is the encoder itself.
        """
        if self.encoder is not None:
            self.encoder.attach(student)
        for texts in self._texts.values():
            texts.begin()

    def expect(self, *, evaluation: bool) -> None:
        """Learn whether the next batch is of evaluation; the loss calls it in every step."""
        self._kind = "evaluation" if evaluation else "training"

    def _cache(
        self,
        side: str,
        encode: Callable[[Sequence[str]], Tensor],
        texts: Sequence[str],
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TeacherTable:
        if self.encoder is None:
            raise ValueError("a table needs a frozen model to make it, got none")
        if not hasattr(self.encoder.model, "encode_query"):
            kind = type(self.encoder.model).__name__
            raise TypeError(f"a table needs a SentenceTransformer to make it, got {kind}")
        identity = {"model": self.encoder.hash(), "side": side, **settings}
        self.tables[side] = cached_table(encode, texts, identity, **options)
        self._texts[side] = OwnTexts(texts, side)
        return self.tables[side]

    def _row_vectors(self, side: str, columns: Sequence[Features], place: int) -> Tensor:
        features = columns[place]
        if ROW not in features:
            raise ValueError(
                f"column {place + 1} of the batch must have row numbers for the teacher's table: "
                'an int column "label" of the data set, [N], or [N, 1 + k] with the row each of k '
                "negatives is the code of (under another name it would be read as a text), or "
                "softnce_ext.estimators.collate's RowCollator, which numbers no negatives; got "
                f"{sorted(features)}"
            )
        vectors = self.tables[side].take(features[ROW]).to(_device(features))
        if side in self._texts and self.encoder is not None:
            self._texts[side].check(features, self.encoder.student, self._kind)
        return vectors


class SimCSEEstimator(_EncoderEstimator):
    """How similar the queries of a batch are to each other: cosine of an unsupervised encoder.

    Args:
        model: The encoder, a SentenceTransformer or its folder or name
            (`softnce_ext.training.simcse` trains one).
        mode: "masked" (recommended): padding is masked, a vector is that of its text alone.
            "reference": as the published code computes it, which pads to `length` and lets the
            encoder attend to the padding.
        length: Tokens a text is cut off at, and in "reference" mode padded to. The published code
            has 200 with CodeBERT, 128 with the others. None: the model's own bound.

    The model is frozen: it is put into eval mode, and its weights ask for no gradients any more.

    Raises:
        TypeError: `model` is no SentenceTransformer, folder or name.
        ValueError: `mode` is no mode, or "reference" has no length or no transformer.
        FileNotFoundError: There is no such model.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Section 3.2; the published
        code passes no attention mask, so that a vector depends on the padding.
    """

    preset = "simcse"

    def __init__(self, model: Any, *, mode: str = "masked", length: int | None = None) -> None:
        if mode not in ("masked", "reference"):
            raise ValueError(f"mode must be masked or reference, got {mode!r}")
        if mode == "reference" and length is None:
            raise ValueError('length must be given with mode="reference", which pads to it')
        if model is None:
            raise ValueError("model must be an encoder, its folder or its name, got None")
        super().__init__(model)
        assert self.encoder is not None
        if mode == "reference":
            check_attends_to_padding(self.encoder.model)
        self.mode, self.length, self._encoder = mode, length, self.encoder

    def __call__(self, sentence_features: Sequence[Features]) -> Pair:
        """Return the queries' unit vectors twice: their products are [N, N] cosines."""
        features = sentence_features[0]
        if "query" in self.tables:
            vectors = self._row_vectors("query", sentence_features, 0)
        elif TEXT in features:
            vectors = self.encode(features[TEXT])
        elif self.mode == "masked":
            vectors = _unit(self._encoder.of_features(features, "query"))
        else:
            raise ValueError('mode="reference" needs a table or texts, got token ids alone')
        vectors = vectors.to(_device(features))
        return vectors, vectors

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the unit vectors of texts, float32 [N, D]."""
        if self.mode == "masked":
            return _unit(self._encoder.of_texts(texts, "query"))
        assert self.length is not None
        return _unit(self._encoder.without_mask(texts, self.length))

    def cache(self, queries: Sequence[str], **options: Any) -> TeacherTable:
        """Make the table of the training queries, or find it, and use it from now on.

        Args:
            queries: In the order of the rows' numbers.
            options: dtype, folder and progress of `cached_table`.

        Returns:
            The table; its `seconds` and `megabytes` are what it cost.

        Raises: As `cached_table`.
        """
        settings = {"estimator": "simcse", "mode": self.mode, "length": self.length}
        return self._cache("query", self.encode, queries, settings, options)


class TeacherEstimator(_EncoderEstimator):
    """How similar a query and a code are to a trained model: dot product or cosine of its vectors.

    The four corners of `mode` and `init_student_from_teacher`: ("frozen", False) is the paper;
    ("online", True) is what the published code does, whose teacher is the student itself. The model
    given is frozen: it is put into eval mode, and its weights ask for no gradients any more.

    Args:
        teacher: A SentenceTransformer, or its folder or name. Not needed with mode "online",
            unless the student starts from it.
        mode: "frozen": the teacher stays as it is, in eval mode. "online": the student's own
            vectors of the step, without gradient and before any normalisation.
        init_student_from_teacher: The student starts from the teacher's weights.
        second_pass: With mode "online": run the student a second time for the similarities, with
            dropout of its own, as the published code does after its first epoch. False takes the
            vectors the loss has computed anyway.
        normalize: Compare by cosine; False: by dot product. None: a frozen teacher is compared as
            it says itself (its `similarity_fn_name`), the student's own vectors by dot product.

    Raises:
        TypeError: `teacher` is no SentenceTransformer, folder or name.
        ValueError: The arguments do not go together.
        FileNotFoundError: There is no such model.

    Source: "Rethinking Negative Pairs in Code Search" (EMNLP 2023), Section 3.2.
    """

    preset = "trained"

    def __init__(
        self,
        teacher: Any = None,
        *,
        mode: str = "frozen",
        init_student_from_teacher: bool = False,
        second_pass: bool = False,
        normalize: bool | None = None,
    ) -> None:
        if mode not in ("frozen", "online"):
            raise ValueError(f"mode must be frozen or online, got {mode!r}")
        if teacher is None and (mode == "frozen" or init_student_from_teacher):
            why = 'mode="frozen"' if mode == "frozen" else "init_student_from_teacher"
            raise ValueError(f"teacher must be given with {why}, got None")
        if teacher is not None and mode == "online" and not init_student_from_teacher:
            raise ValueError(
                'teacher must be None with mode="online", which takes the student\'s own vectors, '
                "unless init_student_from_teacher"
            )
        if second_pass and mode != "online":
            raise ValueError(f'second_pass is for mode="online" alone, got mode {mode!r}')
        super().__init__(teacher)
        self.mode = mode
        self.init_student_from_teacher = init_student_from_teacher
        self.second_pass = second_pass
        if normalize is None:
            normalize = self.encoder is not None and mode == "frozen" and self.encoder.by_cosine
        self.normalize = normalize
        self._student: Any = None

    @property
    def takes_embeddings(self) -> bool:
        """Whether the loss hands over the step's embeddings (`from_embeddings`), not features."""
        return self.mode == "online" and not self.second_pass

    def attach(self, student: Any, *, temperature: float | None = None) -> None:
        """Learn which model is trained, and give it the teacher's weights if so wished.

        Raises:
            ValueError: The student is the teacher itself; it is of another shape or tokenizer than
                the teacher it shall start from; or the preset's temperature is used with vectors of
                length 1.
        """
        super().attach(student, temperature=temperature)
        if temperature is None:
            frozen = self.encoder if self.mode == "frozen" else None
            check_unit_vectors(frozen.model if frozen else student, by_cosine=self.normalize)
        if self.init_student_from_teacher and self.encoder is not None:
            copy_weights(self.encoder.model, student)
        if self.mode == "online":
            self._student = student
            self.encoder = None  # it has done its part

    def follow(self, student: Any) -> None:
        """Take the model that is trained now for the student; the loss calls it in every step.

        A trainer that makes models of its own (`model_init`, a search of settings) replaces it.
        """
        if self.mode == "online":
            self._student = student

    def from_embeddings(self, query: Tensor, code: Tensor) -> Pair:
        """Return the student's vectors as the estimator's, without gradient."""
        return self._compared(query.detach()), self._compared(code.detach())

    def __call__(self, sentence_features: Sequence[Features]) -> Pair:
        """Return the vectors of queries [N, D] and of codes [M, D], without gradient.

        Raises:
            ValueError, IndexError: A column has no row numbers for the tables, or the tables no
                such rows.
        """
        if self.mode == "online":
            if self._student is None:
                raise ValueError('mode="online" must be attached to the student first')
            with no_gradient():
                found = [
                    self._compared(self._student(model_features(features))["sentence_embedding"])
                    for features in sentence_features
                ]
            return found[0], torch.cat(found[1:])
        if self.tables:
            query = self._row_vectors("query", sentence_features, 0)
            places = range(1, len(sentence_features))
            codes = [self._row_vectors("code", sentence_features, place) for place in places]
            return query, torch.cat(codes)
        device = _device(sentence_features[0])
        found = [
            self._vectors(features, "code" if i else "query").to(device)
            for i, features in enumerate(sentence_features)
        ]
        return found[0], torch.cat(found[1:])

    def cache(
        self, queries: Sequence[str], codes: Sequence[str], **options: Any
    ) -> tuple[TeacherTable, TeacherTable]:
        """Make the tables of the training pairs, or find them, and use them from now on.

        Args:
            queries: In the order of the rows' numbers.
            codes: Their codes.
            options: dtype, folder and progress of `cached_table`.

        Returns:
            The tables; their `seconds` and `megabytes` are what they cost.

        Raises: As `cached_table`, and ValueError where a teacher is not frozen, or a query has no
            code.
        """
        if len(codes) < len(queries):
            raise ValueError(
                "codes must hold the code of each query, in the same row, got "
                f"{len(queries):,} queries and {len(codes):,} codes"
            )
        if self.mode == "online" or self.encoder is None:
            raise ValueError(f"a table needs a frozen teacher, got mode {self.mode!r}")
        encoder, settings = self.encoder, {"estimator": "teacher"}
        if self.normalize:
            settings["compared"] = "by cosine"

        def table(side: str, texts: Sequence[str]) -> TeacherTable:
            def encode(some: Sequence[str]) -> Tensor:
                return self._compared(encoder.of_texts(some, side))

            return self._cache(side, encode, texts, settings, options)

        return table("query", queries), table("code", codes)

    def _vectors(self, features: Features, side: str) -> Tensor:
        assert self.encoder is not None
        if TEXT in features:
            return self._compared(self.encoder.of_texts(features[TEXT], side))
        return self._compared(self.encoder.of_features(features, side))

    def _compared(self, vectors: Tensor) -> Tensor:
        """Return vectors whose dot products are the similarities."""
        return _unit(vectors) if self.normalize else vectors


def _loaded(model: Any) -> Any:
    from sentence_transformers import CrossEncoder

    if isinstance(model, (str, os.PathLike)):
        return load_encoder(os.fspath(model))[0]
    if not isinstance(model, torch.nn.Module) or isinstance(model, CrossEncoder):
        raise TypeError(
            "the encoder must be a SentenceTransformer, its folder or its name, got "
            f"{type(model).__name__}"
        )
    return model


def _device(features: Features) -> torch.device:
    """Return the device of a column's features."""
    return next(value.device for value in features.values() if isinstance(value, Tensor))


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1)
