"""GraphCodeBERT: code with its data flow, queries as plain text, the pooler's output as vector.

Source: GraphCodeBERT (Guo et al. 2021), section 4, and the released code of "Rethinking Negative
Pairs in Code Search" (EMNLP 2023) for the lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import RobertaModel

from ..data.dataflow.extract import DataFlow, extract
from ..data.dataflow.languages import language_named
from ..data.dataflow.many import extract_many
from ..data.dataflow.tree import Compat
from .base import Backbone, with_prompt
from .code_inputs import CodeInputs, CodeRow, PieceTable, code_row, padded
from .code_memory import CodeMemory, key_of, read_inputs, reading, write_inputs


class GraphCodeBERT(Backbone):
    """GraphCodeBERT: a code's row is ``<s> pieces </s> nodes``, a node a variable of its data flow.

    Pieces see pieces; a node and its variable's pieces see each other; a node sees the nodes its
    value comes from; ``<s>`` and ``</s>`` see all. A node goes in as the mean of its pieces.

    Features beside `input_ids` and `attention_mask` are those of `code_inputs.padded`; all are
    tensors with a row per text.

    Args:
        encoder: With a pooler.
        tokenizer: The encoder's own.
        language: Of the code: "python", "java", "javascript", "php", "ruby" or "go".
        query_length: Most tokens of a query, special ones included; None for 128.
        code_length: Most tokens of a code with at least `data_flow_length` nodes; None for 256.
            Room that nodes do not use goes to tokens, and the other way round.
        data_flow_length: Positions kept for nodes.
        compat: How a syntax tree's leaves become tokens, see `data.dataflow.extract`.
        remove_padding: Encode a batch in groups of like length.

    Raises:
        ValueError: An argument is out of range, or encoder and tokenizer do not fit each other.
        ImportError: The grammars are not installed.
    """

    kind = "graphcodebert"
    default_source = "microsoft/graphcodebert-base"
    default_query_length = 128
    default_code_length = 256
    has_pooler = True
    row_features = ("input_ids", "attention_mask", "position_ids", "links", "edges")
    config_keys = [*Backbone.config_keys, "language", "data_flow_length", "compat"]

    def __init__(
        self,
        encoder: RobertaModel,
        tokenizer: Any,
        *,
        language: str | None = None,
        query_length: int | None = None,
        code_length: int | None = None,
        data_flow_length: int = 64,
        compat: Compat = "stable",
        remove_padding: bool = True,
    ) -> None:
        if data_flow_length < 0:
            raise ValueError(f"data_flow_length must be >= 0, got {data_flow_length}")
        self.data_flow_length = data_flow_length
        super().__init__(
            encoder,
            tokenizer,
            query_length=query_length,
            code_length=code_length,
            remove_padding=remove_padding,
        )
        if tokenizer.pad_token_id < 1:  # position 0 says "node"
            raise ValueError(f"the padding id must be at least 1, got {tokenizer.pad_token_id}")
        extract("", language or "", compat=compat)  # refuses what it cannot read
        self.language = language or ""
        self.compat: Compat = compat
        self._pieces = PieceTable(tokenizer)
        self._memory = CodeMemory()

    @property
    def longest_row(self) -> int:
        """How many positions a row may take."""
        return max(self.query_length, self.code_length + self.data_flow_length)

    def prepare(
        self, codes: Sequence[str], *, workers: int = 1, progress: bool = False
    ) -> CodeInputs:
        """Return codes ready to be batched: what is worth doing once for all epochs.

        Args:
            codes: The functions, comments included.
            workers: Number of processes for the data flow.
            progress: Show a progress bar on stderr.

        Raises:
            ValueError: `workers` is below 1.
        """
        from tqdm import tqdm

        chunks: dict[int, CodeInputs] = {}
        with tqdm(total=len(codes), desc="data flow", mininterval=0.3, disable=not progress) as bar:

            def receive(start: int, flows: list[DataFlow]) -> None:
                chunks[start] = CodeInputs.of(self._rows(flows))
                bar.update(len(flows))

            extract_many(codes, self.language, receive, compat=self.compat, workers=workers)
        return CodeInputs.joined([CodeInputs.of([]), *(chunks[each] for each in sorted(chunks))])

    def remember(
        self,
        codes: Sequence[str],
        *,
        folder: str | Path | None = None,
        workers: int = 1,
        progress: bool = False,
    ) -> None:
        """Prepare codes once; `preprocess` then takes them from memory.

        Other lengths, another language or `compat` set afterwards make it forget them. Copies of
        the module share the memory; a saved module has none.

        Args:
            codes: The functions; those known already cost nothing.
            folder: Where prepared codes are kept from run to run, in a file named by a hash of
                all they depend on; None keeps them in memory alone.
            workers: Number of processes for the data flow.
            progress: Show a progress bar on stderr.

        Raises:
            ValueError: `workers` is below 1.
            OSError: The folder cannot be written; nothing is left behind there, but the codes are
                remembered all the same.
        """
        texts = self._memory.missing(codes, self._settings)
        if not texts:
            return
        path = None
        if folder is not None:
            grammar = language_named(self.language).package
            path = Path(folder, f"{key_of(texts, self._settings, self.tokenizer, grammar)}.npz")
        inputs = read_inputs(path, len(texts)) if path else None
        if inputs is None:
            inputs = self.prepare(texts, workers=workers, progress=progress)
        else:
            path = None  # it is there
        self._memory.add(texts, inputs, self._settings)
        if path:
            write_inputs(path, inputs)

    def batch(self, prepared: CodeInputs, rows: Iterable[int]) -> dict[str, Tensor]:
        """Return rows of prepared codes as features."""
        return self._features(prepared.row(row) for row in rows)

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the features of texts.

        Args:
            inputs: Texts.
            prompt: Is put before each text.
            task: "query" for plain text; "document" or None for code.
            **kwargs: Not used.

        Raises:
            TypeError: An input is no text.
            ValueError: `task` is something else.
        """
        self.side_length(task)
        if task == "query":
            features = super().preprocess(inputs, prompt, task, **kwargs)
            mask = features["attention_mask"]
            # RoBERTa's own rule for positions.
            features["position_ids"] = mask.cumsum(1) * mask + self.tokenizer.pad_token_id
            features["links"] = features["edges"] = mask.new_zeros(len(mask), 0, 2)
            return features
        texts = with_prompt(inputs, prompt)
        found = [self._memory.find(text, self._settings) for text in texts]
        unknown = [text for text, row in zip(texts, found, strict=True) if row is None]
        read = iter(
            self._rows([extract(text, self.language, compat=self.compat) for text in unknown])
        )
        return self._features(next(read) if row is None else row for row in found)

    def narrow(self, features: dict[str, Any], rows: Tensor, length: int) -> dict[str, Tensor]:
        """Return some rows of a batch, cut to a length."""
        found = {name: features[name][rows] for name in self.row_features}
        for name in ("input_ids", "attention_mask", "position_ids"):
            found[name] = found[name][:, :length]
        return found

    def encode_rows(self, features: dict[str, Tensor]) -> Tensor:
        """Return the pooler's output, [N, D]."""
        embeddings = self.encoder.embeddings.word_embeddings(features["input_ids"])  # [N, T, D]
        attention = features["attention_mask"]
        if features["links"].shape[1]:  # else no row has nodes, and the plain mask says the same
            embeddings = node_means(embeddings, features["position_ids"], features["links"])
            attention = additive(self.visible(features), embeddings)
        vectors: Tensor = self.encoder(
            inputs_embeds=embeddings,
            attention_mask=attention,
            position_ids=features["position_ids"],
        ).pooler_output
        return vectors

    def visible(self, features: dict[str, Tensor]) -> Tensor:
        """Return which position (row) sees which (column), bool [N, T, T]."""
        ids, positions = features["input_ids"], features["position_ids"]
        is_piece = positions > self.tokenizer.pad_token_id
        is_end = (ids == self.tokenizer.cls_token_id) | (ids == self.tokenizer.sep_token_id)
        is_real = features["attention_mask"].bool()
        seen: Tensor = is_piece[:, :, None] & is_piece[:, None, :]
        seen |= is_end[:, :, None] & is_real[:, None, :]
        number = torch.arange(len(ids), device=ids.device)[:, None]
        node, piece = features["links"].unbind(-1)  # [N, M]
        target, source = features["edges"].unbind(-1)  # [N, E]
        true = seen.new_ones(())
        seen.index_put_((number, node, piece), true)
        seen.index_put_((number, piece, node), true)
        seen.index_put_((number, target, source), true)
        return seen

    @property
    def reading(self) -> list[Any]:
        """What a code's row depends on beside the module: versions of the format and grammars."""
        return reading(language_named(self.language).package)

    @property
    def _settings(self) -> tuple[Any, ...]:
        """What a prepared code depends on, beside the tokenizer."""
        return (self.language, self.compat, self.code_length, self.data_flow_length)

    def _rows(self, flows: Sequence[DataFlow]) -> list[CodeRow]:
        split = self._pieces([flow.tokens for flow in flows])
        return [
            code_row(
                flow,
                pieces,
                length=self.code_length + self.data_flow_length,
                node_room=self.data_flow_length,
                ends=(self.tokenizer.cls_token_id, self.tokenizer.sep_token_id),
            )
            for flow, pieces in zip(flows, split, strict=True)
        ]

    def _features(self, rows: Iterable[CodeRow]) -> dict[str, Tensor]:
        batch = padded(
            rows, padding=self.tokenizer.pad_token_id, unknown=self.tokenizer.unk_token_id
        )
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def node_means(embeddings: Tensor, position_ids: Tensor, links: Tensor) -> Tensor:
    """Put at each node the mean of its pieces' embeddings, zeros where all were cut off.

    Args:
        embeddings: [N, T, D].
        position_ids: [N, T], 0 at nodes.
        links: [N, M, 2] of `code_inputs.padded`.
    """
    count, length, width = embeddings.shape
    first = torch.arange(count, device=links.device)[:, None] * length
    node = (first + links[..., 0]).flatten()
    piece = (first + links[..., 1]).flatten()
    # A bag for every position of the batch, most of them empty. Links are sorted by node, and
    # those that only fill up fall into the bag of <s>, which is not used.
    sizes = node.new_zeros(count * length).scatter_add_(0, node, torch.ones_like(node))
    means = torch.nn.functional.embedding_bag(
        piece, embeddings.reshape(-1, width), sizes.cumsum(0) - sizes, mode="mean"
    )
    return torch.where(position_ids.eq(0)[..., None], means.view_as(embeddings), embeddings)


def additive(visible: Tensor, like: Tensor) -> Tensor:
    """Return a mask to add to attention scores, [N, 1, T, T], from a bool one [N, T, T].

    It is right under every attention implementation, where a bool mask is added as 0 and 1 by
    some. In the type that attention computes in: the least fp32 number is -inf in bf16, and
    padding, which sees nothing, would become NaN.
    """
    kind = like.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype
    mask = torch.zeros(visible.shape, dtype=dtype, device=like.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[:, None]
