"""Soft-InfoNCE over batches whose activations do not fit into memory: gradient caching."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from sentence_transformers import __version__
from sentence_transformers.sentence_transformer.losses.matryoshka import ForwardDecorator
from torch import Tensor, nn

from ..distributed import Peers
from ..estimators.collate import model_features
from ..estimators.frozen import no_gradient
from .batch import device_of, row_count
from .columns import bare
from .in_pieces import InPieces
from .mini_batches import Features, FittingSize, Scene, gradients_apart, longest, mini_batches, take
from .options import Estimator
from .soft_info_nce import SoftInfoNCELoss
from .wrappers import check_wrapper

_SIZE_ELSEWHERE = 32


class CachedSoftInfoNCELoss(SoftInfoNCELoss):
    """SoftInfoNCELoss in the memory of a mini-batch: the same loss and gradients.

    The texts are embedded without gradient, in mini-batches. The loss and the embeddings' gradients
    come from one call. In backward each mini-batch is embedded again, with the same dropout, and
    its part of these gradients goes on into the model. So the model runs forward twice. A teacher
    without a table encodes as many rows at once.

    Args:
        model, estimator: As in `SoftInfoNCELoss`.
        mini_batch_size: How many texts are embedded at once: speed and memory, not the result.
            "auto": on CUDA half of what fits, tried with the longest texts; 32 elsewhere.
        options: As in `SoftInfoNCELoss`.

    Raises:
        TypeError, ValueError: `mini_batch_size` is neither "auto" nor an int >= 1; as
            `SoftInfoNCELoss`.

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
        RepL4NLP 2021.
    """

    # From 5.7 on MatryoshkaLoss of sentence-transformers then cuts what `calculate_loss` gets.
    uses_gradient_cache = True

    def __init__(
        self,
        model: Any,
        estimator: str | Estimator | None = "bm25",
        *,
        mini_batch_size: int | str = 32,
        **options: Any,
    ) -> None:
        if mini_batch_size != "auto" and (
            isinstance(mini_batch_size, (bool, str)) or not isinstance(mini_batch_size, int)
        ):
            raise TypeError(f'mini_batch_size must be an int or "auto", got {mini_batch_size!r}')
        if not isinstance(mini_batch_size, str) and mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be >= 1, got {mini_batch_size}")
        super().__init__(model, estimator, **options)
        self.mini_batch_size = mini_batch_size
        self._fitting = FittingSize()

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch; arguments as in `SoftInfoNCELoss.forward`.

        Raises:
            RuntimeError: It is inside a MatryoshkaLoss that knows nothing of gradient caching.
            ValueError: The model's wrapper cannot do with its passes.
        """
        if isinstance(getattr(self.model, "forward", None), ForwardDecorator):
            raise RuntimeError(
                "CachedSoftInfoNCELoss inside MatryoshkaLoss needs sentence-transformers >= 5.7, "
                f"got {__version__}: update it, or use SoftInfoNCELoss"
            )
        columns = list(sentence_features)
        beside = self.beside(columns, labels)
        texts = [model_features(column) for column in columns]
        if torch.is_grad_enabled():
            check_wrapper(self.model, self.mini_batch_size, beside["peers"])
        size = self._size(texts)
        parts = [mini_batches(column, size) for column in texts]
        scenes: list[Scene] = []
        embeddings = [[self._embed(features, scenes) for features in column] for column in parts]
        trains = any(weight.requires_grad for weight in self.model.parameters())
        if not torch.is_grad_enabled() or not trains:
            return self.calculate_loss(embeddings, labels, **beside).detach()
        loss = self.calculate_loss(embeddings, labels, with_backward=True, **beside)
        loss = loss.detach().requires_grad_()
        replayed = (list(chain(*parts)), list(chain(*embeddings)), scenes)
        loss.register_hook(partial(self._embed_again, *replayed))  # type: ignore[no-untyped-call]
        return loss

    def calculate_loss(
        self,
        reps: Sequence[Sequence[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
        **beside: Any,
    ) -> Tensor:
        """Return the loss of embeddings, the mini-batches of each column.

        Args:
            reps: Of each column its mini-batches, [m, D] each.
            labels: Not used.
            with_backward: Compute the gradients of the mini-batches at once; the loss has none.
            beside: As in `compute_loss_from_embeddings`.
        """
        # By mini-batches: of whole columns autograd would keep the vectors beside the unit ones.
        unit = self.normalize and not self._takes_embeddings()
        embeddings = [_joined(column, unit) for column in reps]
        loss = self.compute_loss_from_embeddings(embeddings, labels, is_unit=unit, **beside)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach() if with_backward else loss

    def asked(self, estimator: Estimator, peers: Peers) -> Estimator:
        """Return the estimator, a live teacher as one that is asked for a mini-batch at a time."""
        if not getattr(estimator, "is_live", False):
            return estimator
        if torch.is_grad_enabled():
            check_wrapper(self.model, self.mini_batch_size, peers)
        # "auto" is found later, in the first step, by the model that is trained.
        size = self.mini_batch_size
        return InPieces(
            estimator, size if isinstance(size, int) else self._fitting.size or _SIZE_ELSEWHERE
        )

    def get_config_dict(self) -> dict[str, Any]:
        """Return the arguments, for the model card."""
        return {**super().get_config_dict(), "mini_batch_size": self.mini_batch_size}

    def _embed(self, features: Features, scenes: list[Scene]) -> Tensor:
        """Return embeddings that collect their gradient, and note how they came about."""
        scenes.append(Scene(device_of(features)))
        with no_gradient():
            (embeddings,) = self.embed([features])
        if embeddings.dtype == torch.float16:  # in which the gradient, p / N, would underflow
            embeddings = embeddings.float()
        return embeddings.detach().requires_grad_()

    def _embed_again(
        self, parts: list[Features], leaves: list[Tensor], scenes: list[Scene], grad: Tensor
    ) -> None:
        """Give the model its gradients, mini-batch by mini-batch; `grad` is the loss's own."""
        wait = getattr(self.model, "no_sync", nullcontext)  # of data-parallel wrappers
        passes = list(zip(parts, leaves, scenes, strict=True))
        trained, last = -1, len(passes) - 1
        for i, each in enumerate(passes):
            # The ranks' gradients are averaged once, with the last mini-batch.
            with nullcontext() if i == last else wait():
                if self._replay(*each, grad):
                    trained = i
        # A frozen encoder's averages nothing: then a trained one goes once more, with gradient 0.
        averages = getattr(self.model, "require_backward_grad_sync", False)  # not inside no_sync
        if averages and 0 <= trained < last:
            self._replay(*passes[trained], torch.zeros_like(grad))

    def _replay(self, features: Features, leaf: Tensor, scene: Scene, grad: Tensor) -> bool:
        """Hand the leaf's gradient on, `grad` times; return whether anything is trained by it."""
        with torch.enable_grad(), scene.again():
            with scene.autocast():  # not backward, which casts as the forward pass did
                (embeddings,) = self.embed([features])
            if not embeddings.requires_grad or leaf.grad is None:
                return False
            torch.autograd.backward(embeddings, (leaf.grad * grad).to(embeddings.dtype))
            return True

    def _size(self, columns: Sequence[Features]) -> int:
        if isinstance(self.mini_batch_size, int):
            return self.mini_batch_size
        device, column = device_of(columns[0]), max(columns, key=longest)
        if device.type != "cuda" or not torch.is_grad_enabled():  # evaluation tells too little
            return self._fitting.size or _SIZE_ELSEWHERE

        def trial(rows: int) -> None:
            model = bare(self.model)  # another rank does not take part
            features = model_features(take(column, 0, rows, trim=False))
            scene = Scene(device)
            with gradients_apart(model), torch.enable_grad(), scene.again(), scene.autocast():
                embeddings = model(features)["sentence_embedding"]
                if embeddings.requires_grad:
                    embeddings.float().sum().backward()

        return self._fitting.find(row_count(column), longest(column), trial)


def _joined(parts: Sequence[Tensor], unit: bool) -> Tensor:
    return torch.cat([nn.functional.normalize(part, dim=-1) if unit else part for part in parts])
