"""What the paper's backbones share as modules of sentence-transformers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

from .padding import OVERHEAD_TOKENS, encode_by_length
from .roberta import load_roberta


class Backbone(InputModule):
    """A RoBERTa encoder that knows the lengths of both sides and what the vector of a row is.

    The base has tokenizer, encoder, lengths, padding removal, saving and loading. A subclass says

    * the class variables below;
    * `encode_rows`: a batch's features to vectors [N, D];
    * `special_prefix` where a row starts with more than ``<s>``; every row ends with ``</s>``;
    * if its rows have more than token ids: `preprocess`, `row_features` (or `narrow`, where a
      feature is not [N, T]), `longest_row`, and its own lengths in `config_keys` and in an
      `__init__` that sets them before it calls this one.

    Features of a batch: `input_ids` and `attention_mask`, int64 [N, T], padded at the end to the
    longest row; the mask is 0 at every padding id. `forward` adds `sentence_embedding` [N, D].

    Args:
        encoder: With a pooler if the subclass wants one.
        tokenizer: The encoder's own.
        query_length: Most tokens of a query, special ones included; None for the published one.
        code_length: The same of a code.
        remove_padding: Encode a batch in groups of like length.

    Raises:
        ValueError: Encoder, tokenizer and lengths do not fit each other.
    """

    kind: ClassVar[str]
    default_source: ClassVar[str]  # on the hub
    default_query_length: ClassVar[int]
    default_code_length: ClassVar[int]
    has_pooler: ClassVar[bool]  # whether the vector comes from the pooler
    row_features: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")

    tokenizer: Any  # of transformers

    # "config.json" is the encoder's.
    config_file_name = "softnce_backbone.json"
    config_keys = ["query_length", "code_length", "remove_padding"]

    def __init__(
        self,
        encoder: RobertaModel,
        tokenizer: Any,
        *,
        query_length: int | None = None,
        code_length: int | None = None,
        remove_padding: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.query_length = self.default_query_length if query_length is None else query_length
        self.code_length = self.default_code_length if code_length is None else code_length
        self.remove_padding = remove_padding
        if self.has_pooler and encoder.pooler is None:
            raise ValueError(f"{self.kind} takes the pooler's output, but the model has no pooler")
        if tokenizer.pad_token_id != encoder.config.pad_token_id:
            raise ValueError(
                "the tokenizer's padding id must be the model's, "
                f"{encoder.config.pad_token_id}, got {tokenizer.pad_token_id}"
            )
        if len(tokenizer) > encoder.config.vocab_size:
            raise ValueError(
                f"the tokenizer must have at most the model's {encoder.config.vocab_size} "
                f"pieces, got {len(tokenizer)}"
            )
        self.prefix = self.special_prefix()
        self.check_lengths()

    @classmethod
    def from_source(
        cls,
        source: str | Path | RobertaConfig | None = None,
        *,
        tokenizer: Any = None,
        model_kwargs: dict[str, Any] | None = None,
        hub_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Make the module of published weights, or with random ones of a configuration.

        Args:
            source: A name on the hub, a folder, a configuration; None for the published weights.
            tokenizer: A tokenizer, its name or folder; None for the source's own.
            model_kwargs: For `from_pretrained` of the encoder, such as ``dtype``, float32 else.
            hub_kwargs: For everything that may come from the hub, such as ``revision``.
            **options: For the module.

        Raises:
            FileNotFoundError: There is no such model, or its files are broken.
            ValueError: It is no RoBERTa, or its weights lack a part.
        """
        encoder, tokenizer = load_roberta(
            source or cls.default_source,
            tokenizer,
            kind=cls.kind,
            has_pooler=cls.has_pooler,
            model_kwargs=model_kwargs or {},
            hub_kwargs=hub_kwargs or {},
        )
        return cls(encoder, tokenizer, **options)

    def special_prefix(self) -> list[int]:
        """Return the special ids a row starts with."""
        return [self.tokenizer.cls_token_id]

    @abstractmethod
    def encode_rows(self, features: dict[str, Tensor]) -> Tensor:
        """Return the vectors [N, D] of padded rows; `features` holds `row_features`."""

    @property
    def longest_row(self) -> int:
        """How many positions a row may take."""
        return max(self.query_length, self.code_length)

    def check_lengths(self) -> None:
        """Refuse lengths that the model has no positions for, or that leave no room for text."""
        config: Any = self.encoder.config
        # RoBERTa counts positions from the padding id + 1.
        positions = config.max_position_embeddings - config.pad_token_id - 1
        if self.longest_row > positions:
            raise ValueError(
                f"query_length and code_length must fit the model's {positions} positions, "
                f"got a row of {self.longest_row}"
            )
        least = len(self.prefix) + 2
        for name in ("query_length", "code_length"):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a code; setting it cuts queries to it too, and never lengthens them."""
        return self.code_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self.code_length = value
        self.query_length = min(self.query_length, value)
        self.check_lengths()

    def side_length(self, task: str | None) -> int:
        """Return the most tokens of a side: "query", "document" or None, which is code too."""
        if task not in ("query", "document", None):
            raise ValueError(f'task must be "query", "document" or None, got {task!r}')
        return self.query_length if task == "query" else self.code_length

    def pieces(self, texts: Sequence[str], count: int) -> list[list[int]]:
        """Return the ids of each text's first `count` pieces, special ones not added."""
        ids: list[list[int]] = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=count,
            return_attention_mask=False,
        )["input_ids"]
        return ids

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Return rows of ids as features, padded to the longest."""
        padding: int = self.tokenizer.pad_token_id
        input_ids = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=padding
        )
        # By id, as the published code: a text that spells the padding token is masked there too.
        return {"input_ids": input_ids, "attention_mask": input_ids.ne(padding).long()}

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the features of texts, cut to the length of their side.

        Args:
            inputs: Texts.
            prompt: Is put before each text; its `prompt_length` is a feature, as elsewhere.
            task: "query" or "document"; None cuts as "document".
            **kwargs: Not used.

        Raises:
            TypeError: An input is no text.
            ValueError: `task` is something else.
        """
        room = self.side_length(task) - len(self.prefix) - 1
        rows = self.pieces(with_prompt(inputs, prompt), room)
        end = self.tokenizer.sep_token_id
        features: dict[str, Any] = self.pad([[*self.prefix, *row, end] for row in rows])
        if prompt:
            features["prompt_length"] = len(self.prefix) + len(self.pieces([prompt], room)[0])
        return features

    def narrow(self, features: dict[str, Any], rows: Tensor, length: int) -> dict[str, Tensor]:
        """Return some rows of a batch, cut to a length, as `encode_rows` takes them."""
        return {name: features[name][rows, :length] for name in self.row_features}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add `sentence_embedding` [N, D] to a batch's features."""

        def encode(rows: Tensor, length: int) -> Tensor:
            return self.encode_rows(self.narrow(features, rows, length))

        # Compiled, a split by lengths would break the graph and recompile with every batch.
        if self.remove_padding and not torch.compiler.is_compiling():
            mask = features["attention_mask"]
            overhead = OVERHEAD_TOKENS.get(mask.device.type, OVERHEAD_TOKENS["cuda"])
            vectors = encode_by_length(mask, encode, overhead)
        else:
            vectors = self.encode_rows({name: features[name] for name in self.row_features})
        features["sentence_embedding"] = vectors
        return features

    def get_embedding_dimension(self) -> int:
        """Return the width D of the vectors."""
        width: int = self.encoder.config.hidden_size
        return width

    def save(
        self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any
    ) -> None:
        """Save as Hugging Face would (safetensors), with the lengths in a file of their own."""
        self.encoder.save_pretrained(output_path)
        self.save_tokenizer(output_path)
        self.save_config(output_path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load what `save` saved; called by sentence-transformers."""
        names = ("token", "revision", "local_files_only")
        hub = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        cache = kwargs.get("cache_folder")
        options = cls.load_config(
            model_name_or_path, subfolder=subfolder, cache_folder=cache, **hub
        )
        if not options:
            raise FileNotFoundError(
                f"it must have {cls.config_file_name}, which says how long its texts are"
            )
        hub |= {"subfolder": subfolder, "cache_dir": cache}
        return cls.from_source(
            model_name_or_path, model_kwargs=model_kwargs, hub_kwargs=hub, **options
        )


def with_prompt(inputs: Sequence[Any], prompt: str | None) -> list[str]:
    """Return texts with the prompt before them; refuse what is no text."""
    for each in inputs:
        if not isinstance(each, str):
            raise TypeError(f"inputs must be texts, got {type(each).__name__}")
    return [(prompt or "") + text for text in inputs]
