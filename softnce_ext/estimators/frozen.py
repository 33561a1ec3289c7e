"""A trained model that only gives vectors: never trained, in eval mode, on the device it is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..encoders.load import is_static
from .alike import other_reading
from .bm25 import prompt_length, token_ids
from .cache import model_hash
from .collate import model_features

_TEXTS_AT_ONCE = 64
TASKS = {"query": "query", "code": "document"}  # sentence-transformers' words for the sides
# The prompt of a side is the first of these that the model has.
_PROMPTS = {"query": ("query",), "code": ("document", "passage", "corpus")}


class FrozenEncoder:
    """Holds a SentenceTransformer and freezes it.

    It is no module, so that nothing that moves, trains or saves a loss does so to the model.

    Args:
        model: The model; it is put into eval mode and loses its gradients.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.student: Any = None
        self._other_reading: str | None = None  # than the student's; None: not compared yet
        self._prompts: dict[str, list[int]] = {}  # token ids, by task

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenEncoder:
        return self  # it never changes

    def attach(self, student: Any) -> None:
        """Learn which model is trained.

        Raises:
            ValueError: It is this one, or shares weights with it.
        """
        own = {parameter.data_ptr() for parameter in self.model.parameters()}
        if any(parameter.data_ptr() in own for parameter in student.parameters()):
            raise ValueError(
                "a frozen teacher must be a model of its own, got the student itself or one that "
                "shares its weights (a copy is frozen; TeacherEstimator's mode online follows the "
                "student)"
            )
        self.student, self._other_reading = student, None

    @property
    def by_cosine(self) -> bool:
        """Whether the model is meant to be scored by cosine, and no module of it sees to that."""
        said = getattr(self.model, "similarity_fn_name", None)
        return said == "cosine" and not has_unit_vectors(self.model)

    def hash(self) -> str:
        """Return the hash of what decides the vectors."""
        return model_hash(self.model)

    def of_texts(self, texts: Sequence[str], side: str) -> Tensor:
        """Return the vectors of texts under their side's prompt, [N, D] on the model's device."""
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        with self._as_for_a_table():
            vectors: Tensor = encode(
                list(texts),
                batch_size=_TEXTS_AT_ONCE,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        return vectors.clone()  # outside of inference mode, for autograd beside it

    @torch.no_grad()
    def without_mask(self, texts: Sequence[str], length: int) -> Tensor:
        """Return masked means of a transformer that attends to its padding up to `length`.

        Source: the published code of the paper; section 3.2's SimCSE estimator.
        """
        transformer, tokenizer = self.model[0].auto_model, self.model.tokenizer
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            ids = tokenizer(
                list(texts[start : start + _TEXTS_AT_ONCE]),
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )["input_ids"].to(self.model.device)  # [n, length]
            with self._as_for_a_table():
                hidden = transformer(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
            words = (ids != tokenizer.pad_token_id)[:, :, None].to(hidden.dtype)
            parts.append((hidden * words).sum(1) / words.sum(1))
        return torch.cat(parts)

    @torch.no_grad()
    def of_features(self, features: Mapping[str, Any], side: str) -> Tensor:
        """Return the vectors of a batch the student has tokenized.

        Raises:
            ValueError: The model reads texts otherwise: it has another tokenizer, length or kind,
                or another prompt than the texts of the batch have.
        """
        if self._other_reading is None:
            student = self.model if self.student is None else self.student
            self._other_reading = other_reading(self.model, student)
        if self._other_reading:
            raise ValueError(
                f"the teacher has another {self._other_reading} than the student, whose features "
                "it cannot read: make its table with `cache`, or carry the texts with "
                "RowCollator(texts=True)"
            )
        self._check_prompt(features, side)
        return self._forward(model_features(features))

    def _check_prompt(self, features: Mapping[str, Any], side: str) -> None:
        """Hold the trainer's prompt, which is in the batch, against the model's own.

        By their tokens but for the last, which may be one with a text's first.
        """
        given, task = _prompt_of(features), TASKS[side]
        if task not in self._prompts:
            names = [name for name in _PROMPTS[side] if name in self.model.prompts]
            prompt = self.model.prompts.get((*names, self.model.default_prompt_name)[0])
            own = self.model.preprocess(["a"], prompt=prompt, task=task) if prompt else {}
            self._prompts[task] = _prompt_of(own)
        wanted = self._prompts[task]
        if len(given) != len(wanted) or given[:-1] != wanted[:-1]:
            raise ValueError(
                f"the teacher's prompt for a {task} must be the one the trainer puts before the "
                f"{side} texts, got one of {len(wanted)} tokens of its own and one of {len(given)} "
                f'in the batch: give both the same (teacher.prompts["{task}"]), make its table '
                "with `cache`, or carry the texts with RowCollator(texts=True)"
            )

    def _forward(self, features: Mapping[str, Any]) -> Tensor:
        from sentence_transformers.util import batch_to_device

        moved = batch_to_device(dict(features), self.model.device)
        with self._as_for_a_table():
            vectors: Tensor = self.model(moved)["sentence_embedding"]
        return vectors

    def _as_for_a_table(self) -> AbstractContextManager[Any]:
        """Compute in the model's own type, whatever autocast the training is under."""
        kind = self.model.device.type
        if not torch.amp.is_autocast_available(kind):
            return nullcontext()
        return torch.autocast(kind, enabled=False)


def _prompt_of(features: Mapping[str, Any]) -> list[int]:
    """Return the first text's tokens up to the end of the prompt, none where there is none."""
    length = prompt_length(features)
    return token_ids(features).ids[:length].tolist() if length else []


@contextmanager
def no_gradient() -> Iterator[None]:
    """A pass without gradient of a model that has one with gradient in the same step.

    Under autocast torch 2.10 keeps the weights it casts in the first, and hands them, without a way
    back to the weights, on to the second, whose gradients would silently be missing.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(before)


def check_attends_to_padding(model: Any) -> None:
    """Refuse for SimCSE's reference mode what is no plain transformer, which alone can be padded.

    Raises:
        ValueError: The model is static, one of the paper's backbones, or of another kind.
    """
    if getattr(model[0], "auto_model", None) is None:
        raise ValueError(
            'mode="reference" lets a transformer of sentence-transformers attend to its padding, '
            f"got a model that begins with {type(model[0]).__name__}"
        )


def check_raw_dot(model: Any) -> None:
    """Refuse to score vectors of length 1 by raw dot products, as the paper's code scores its own.

    Raises:
        ValueError: The model is static or normalises its vectors.
    """
    if has_unit_vectors(model):
        raise ValueError(
            "scoring must be cosine (with a scale of 20) for an encoder whose vectors have length "
            "1, got dot: raw scores within [-1, 1] do not train it"
        )


def check_unit_vectors(model: Any, *, by_cosine: bool = False) -> None:
    """Refuse the trained teacher's preset for similarities of vectors of length 1.

    Args:
        model: What gives the vectors.
        by_cosine: Whether they are compared by cosine, whatever the model's modules say.

    Raises:
        ValueError: They are of length 1.
    """
    if by_cosine or has_unit_vectors(model):
        raise ValueError(
            "temperature must be given with a teacher whose vectors have length 1 or are compared "
            "by cosine, got the preset's 5.0, which is for raw dot products: every weight would be "
            "1"
        )


def has_unit_vectors(model: Any) -> bool:
    """Return whether a model's modules give vectors of length 1."""
    from sentence_transformers.sentence_transformer.modules import Normalize

    return is_static(model) or any(isinstance(module, Normalize) for module in model)
