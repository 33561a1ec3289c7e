"""Train one encoder on pairs, with `SentenceTransformerTrainer`."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from accelerate.data_loader import prepare_data_loader
from sentence_transformers import SentenceTransformerTrainingArguments
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from transformers.utils.import_utils import is_torch_tf32_available

from ..encoders.load import is_static
from ..sentence_transformers import SoftInfoNCELoss
from . import ranks
from .batches import RankBatches, TrainingPairs, steps_per_epoch
from .callbacks import KeepBest, ProgressBar, StopAfterStep
from .checkpoint import CheckpointTrainer, Stage
from .run import TrainingDivergedError, TrainingInterrupted, TrainingRun
from .settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train_encoder(
    model: SentenceTransformer,
    loss: SoftInfoNCELoss,
    pairs: TrainingPairs,
    settings: TrainSettings,
    *,
    validate: Callable[[], float] | None = None,
    title: str = "training",
    progress: bool = True,
    stage: Stage | None = None,
) -> TrainingRun:
    """Train a model in place; it ends with the weights of its best epoch.

    Ranks that have joined share each batch; the first validates for all.

    Args:
        model: The model; trained on the GPU where there is one.
        loss: Its loss.
        pairs: Tokenized pairs for a static encoder, texts for others.
        settings: Resolved settings; those of the optimiser are read.
        validate: Returns the figure, the higher the better, by which the best epoch is chosen;
            None keeps the last.
        title: Of the progress bar.
        progress: Show a progress bar on stderr.
        stage: Its checkpoints, from which it goes on, and into which it writes; None for neither.

    Raises:
        ValueError: The device cannot compute in the precision asked for, or the checkpoints are
            another run's.
        TrainingDivergedError: The loss of a step was not finite.
        TrainingInterrupted: Ctrl-C; the model has the weights of its best epoch so far.
    """
    assert settings.batch_size is not None
    batch_size = settings.batch_size
    run = TrainingRun()
    keeper = KeepBest(model, run, validate)
    found = None if stage is None else stage.find(model, pairs)
    if found is not None:
        keeper.go_on_from(found)
        if found.finished:
            keeper.restore()
            model.eval()
            return run
    bar = ProgressBar(title, run, hidden=not progress or not ranks.is_first())
    stop = StopAfterStep()
    collator: Any = pairs.collator(model)
    loss.pop_statistics()  # from now on all are counted
    with tempfile.TemporaryDirectory(prefix="softnce-") as scratch:
        trainer = _Trainer(
            batch_size,
            model=model,
            args=_arguments(settings, scratch, len(pairs), stage, static=is_static(model)),
            train_dataset=pairs.dataset(),
            loss=loss,
            data_collator=collator,
            callbacks=[stop, bar, keeper],
        )
        trainer.remove_callback(PrinterCallback)  # it prints to stdout
        trainer.stage, trainer.keeper = stage, keeper
        trainer.uses_tf32 = settings.precision == "tf32"
        try:
            with stop:
                trainer.train(resume_from_checkpoint=str(found.folder) if found else None)
        except KeyboardInterrupt:
            keeper.restore()
            raise TrainingInterrupted(run, model) from None
        finally:
            bar.close()
        keeper.restore()
        run.seconds = keeper.seconds()
    model.eval()
    return run


def _arguments(
    settings: TrainSettings, folder: str, rows: int, stage: Stage | None = None, *, static: bool
) -> SentenceTransformerTrainingArguments:
    if settings.precision == "tf32" and not is_torch_tf32_available():
        raise ValueError(
            "precision tf32 needs an NVIDIA GPU of compute capability 8.0 or more, got none; bf16 "
            "and fp32 need none"
        )
    assert settings.batch_size is not None and settings.epochs is not None
    assert settings.learning_rate is not None and settings.seed is not None
    together = ranks.count()
    for name, value in (
        ("batch_size", settings.batch_size),
        ("the number of training pairs", rows),
    ):
        if value < together:
            raise ValueError(f"{name} must be >= {together}, one for each rank, got {value}")
    per_epoch = steps_per_epoch(rows, settings.batch_size, together)
    total = per_epoch * settings.epochs
    steps = min(settings.max_steps or total, total)
    warmup = round((settings.warmup_epochs or 0.0) * per_epoch)
    if warmup >= steps and ranks.is_first():
        warnings.warn(
            f"warmup_epochs {settings.warmup_epochs:g} is the whole run: the learning rate rises "
            f"from 0 in all its steps, {steps} in number, and never is {settings.learning_rate:g}",
            RuntimeWarning,
            stacklevel=2,
        )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=math.ceil(settings.batch_size / together),
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warmup,
        weight_decay=0.0,
        bf16=settings.precision == "bf16",
        # Without it the library takes bf16, and ranks, for a wish that only a GPU can meet.
        use_cpu=(settings.precision == "bf16" or together > 1)
        and not torch.accelerator.is_available(),
        # Adam's steps do not depend on the gradient's length; a static encoder needs no guard.
        max_grad_norm=0.0 if static else 1.0,
        logging_steps=1,
        save_strategy="no" if stage is None or not stage.run.writes else "epoch",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        dataloader_drop_last=together > 1,  # else the library warns of what RankBatches sees to
        ddp_find_unused_parameters=not static,  # a transformer may have a pooler nobody asks for
        seed=settings.seed,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would split the batch's negatives among the GPUs
    if arguments.world_size != together:
        raise ValueError(
            f"ranks need CUDA GPUs, or CPUs alone, got {together} ranks on {arguments.device.type}"
        )
    return arguments


class _Trainer(CheckpointTrainer):
    """Stops at a loss that is not finite, logs what the loss counts, shares batches among ranks."""

    uses_tf32 = False

    def __init__(self, batch_size: int, **options: Any) -> None:
        super().__init__(**options)
        self.batch_size = batch_size  # of all ranks
        if not ranks.is_first():  # dropout of its own; the order of rows has another generator
            torch.manual_seed(self.args.seed + self.args.process_index)

    def get_train_dataloader(self) -> Any:
        if ranks.count() == 1:
            return super().get_train_dataloader()
        data: Any = self.train_dataset
        collator: Any = self.data_collator
        batches = self.get_batch_sampler(
            data,
            batch_size=self.batch_size,
            drop_last=False,
            valid_label_columns=collator.valid_label_columns,
            generator=torch.Generator().manual_seed(self.args.seed),
            seed=self.args.seed,
        )
        mine = RankBatches(batches, len(data), self.args.process_index, ranks.count())
        pinned = self.args.dataloader_pin_memory
        loader = DataLoader(data, batch_sampler=mine, collate_fn=collator, pin_memory=pinned)
        # As for one process, in the same order; else each rank would get batches of its own.
        return prepare_data_loader(
            loader,
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            use_seedable_sampler=self.accelerator.use_seedable_sampler,
            data_seed=self.args.seed,
        )

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave out the generated model card; ours says what was measured."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # Of the whole process: transformers' own tf32 would outlast the step, and validate in it.
        with torch.backends.flags("tf32") if self.uses_tf32 else nullcontext():
            loss = super().training_step(*args, **kwargs)
        if not math.isfinite(float(loss)):
            step, total = self.state.global_step + 1, self.state.max_steps
            raise TrainingDivergedError(
                f"the loss became {float(loss)} at step {step} of {total}: "
                "a lower learning rate or scale may help"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            loss: Any = self.loss
            logs = {**logs, **ranks.mean(loss.pop_statistics())}
        super().log(logs, start_time)
