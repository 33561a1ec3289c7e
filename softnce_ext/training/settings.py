"""What a training run can be told: one truth for flags, YAML file and the saved JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from .options import checked, option, read_yaml
from .rules import LOSSES as LOSSES
from .rules import STATIC as STATIC
from .rules import UNWEIGHTED as UNWEIGHTED
from .rules import WEIGHTED as WEIGHTED
from .rules import conflict, unused
from .systems import SYSTEMS

# What None stands for, by the kind of model. The static figures were chosen on validation
# packages; a transformer's are the usual ones of fine-tuning.
STATIC_DEFAULTS = {"batch_size": 1024, "epochs": 2, "learning_rate": 2e-2, "code_length": 64}
TRANSFORMER_DEFAULTS = {"batch_size": 32, "epochs": 1, "learning_rate": 2e-5, "code_length": 256}
# With every kind of model, unless a preset says otherwise.
COMMON_DEFAULTS = {
    "form": "source",
    "scoring": "cosine",
    "name_boost": 5,
    "warmup_epochs": 0.0,
    "seed": 0,
}
SCALES = {"cosine": 20.0, "dot": 1.0}
STEPS_PER_EPOCH = 16  # at least, while batches stay above LEAST_BATCH pairs
LEAST_BATCH = 16

LANGUAGES = ("go", "java", "javascript", "php", "python", "ruby")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training run.

    What is None by default is filled in by `resolved`, by the preset or the kind of model, or
    stands for what its help says.

    Raises:
        ValueError, TypeError: A value is of another type or out of range, values do not go
            together, or one counts for nothing beside the others.
    """

    model: str | None = option(
        "model",
        str,
        None,
        f'encoder to train: a folder, a hub name, or "{STATIC}" for one from scratch '
        f"(default: {STATIC}, or the preset's published weights)",
    )
    preset: str | None = option(
        "model", str, None, "the paper's settings for a backbone", choices=tuple(SYSTEMS)
    )
    init: str | None = option(
        "model",
        str,
        None,
        "pretrained encoder that gives the static encoder's word pieces a start",
    )
    query_length: int | None = option(
        "model",
        int,
        None,
        "tokens of a query that are read (default: the preset's, else code_length)",
        at_least=1,
    )
    code_length: int | None = option(
        "model", int, None, "tokens of a text that are read", at_least=1
    )
    vocab_size: int = option("model", int, 4000, "word pieces of the static encoder", at_least=100)
    dimension: int = option("model", int, 1024, "width of the static encoder", at_least=1)

    data: str | None = option(
        "data",
        str,
        None,
        "folder of source, JSON lines (CodeSearchNet's too), what softnce prepare csn wrote, or "
        "hf:NAME[:CONFIG] for a Hugging Face dataset (default: this Python's packages)",
    )
    language: str | None = option(
        "data", str, None, "take this language of the data", choices=LANGUAGES
    )
    manifest: str | None = option(
        "data", str, None, "manifest.json of an earlier run: use its split"
    )
    form: str | None = option(
        "data",
        str,
        None,
        "of prepared code: as it stands, or CodeSearchNet's tokens joined by blanks "
        "(default: the preset's, else source)",
        choices=("source", "tokens"),
    )
    name_boost: int | None = option(
        "data",
        int,
        None,
        "how often a function's name precedes its code (default: 5; presets 0)",
        at_least=0,
    )

    loss: str = option("loss", str, WEIGHTED, "the loss", choices=LOSSES)
    scoring: str | None = option(
        "loss",
        str,
        None,
        "how vectors are compared (default: cosine; presets dot, as published)",
        choices=tuple(SCALES),
    )
    scale: float | None = option(
        "loss", float, None, "multiplies the scores (default: 20 for cosine, 1 for dot)", above=0
    )
    top_k: int = option("loss", int, 1, "most similar negatives dropped from a row", at_least=0)
    ratio: float = option(
        "loss",
        float,
        0.7,
        "negatives this many times as similar as the pair itself are dropped",
        above=0,
    )
    mask_duplicates: bool | None = option(
        "loss",
        bool,
        None,
        "leave codes out of a query's negatives that repeat its code or belong to the same query "
        "(default: yes; not with loss simcse)",
    )
    alpha: float | None = option(
        "loss",
        float,
        None,
        "how strongly similar negatives are weakened (default: the paper's)",
        at_least=0,
    )
    beta: float | None = option(
        "loss", float, None, "constant part of a negative's weight (default: the paper's)"
    )
    temperature: float | None = option(
        "loss", float, None, "of the softmax over similarities (default: the paper's)", above=0
    )
    min_weight: float = option(
        "loss",
        float,
        0.1,
        "lower bound of a negative's weight",
        at_least=0,
        at_most=1,
    )
    info_nce_weight: float = option("loss", float, 1.3, "weight of InfoNCE", at_least=0)
    kl_weight: float = option(
        "loss", float, 0.7, "weight of the divergence from the similarities", at_least=0
    )
    alpha_scaling: str = option(
        "loss",
        str,
        "none",
        "expected: alpha grows with the expected number of false negatives in a batch",
        choices=("none", "expected"),
    )
    false_negative_rate: float | None = option(
        "loss",
        float,
        None,
        "with alpha_scaling expected: false ones among a row's negatives (default: 1/31)",
        above=0,
        below=1,
    )

    estimator: str = option(
        "estimator",
        str,
        "bm25",
        "what tells how similar a batch's pairs are",
        choices=("bm25", "simcse", "trained", "none"),
    )
    teacher: str | None = option(
        "estimator",
        str,
        None,
        "folder or name of the encoder behind estimator simcse or trained "
        "(default: it is trained first, in the same run)",
    )
    teacher_mode: str = option(
        "estimator",
        str,
        "frozen",
        "of estimator trained; online: the student itself is its teacher, by the vectors of the "
        "step; online-second-pass: by those of a second pass with its own dropout, as in the "
        "published code",
        choices=("frozen", "online", "online-second-pass"),
    )
    init_student_from_teacher: bool = option(
        "estimator",
        bool,
        False,
        "of estimator trained: start from the teacher's weights, as the published code does",
    )
    teacher_dtype: str = option(
        "estimator",
        str,
        "float32",
        "of the teacher's table, which estimator simcse has, and trained with teacher_mode frozen",
        choices=("float32", "float16"),
    )
    simcse_mode: str = option(
        "estimator",
        str,
        "masked",
        "reference: SimCSE attends to its padding, as in the published code",
        choices=("masked", "reference"),
    )
    simcse_settings: str = option(
        "estimator",
        str,
        "published",
        "how SimCSE is trained: as the published code does, or its own authors",
        choices=("published", "original"),
    )
    bm25_sides: str = option(
        "estimator",
        str,
        "text-text",
        "what BM25 compares: queries, queries with codes, or codes",
        choices=("text-text", "text-code", "code-code"),
    )
    bm25_temperature: str = option(
        "estimator",
        str,
        "fixed",
        "scaled: grows with batch and text, so that the softmax stays as sharp",
        choices=("fixed", "scaled"),
    )
    bm25_rules: str = option(
        "estimator",
        str,
        "batch",
        "published: word ids and mean length as the published code counts them",
        choices=("batch", "published"),
    )

    batch_size: int | None = option(
        "optimiser", int, None, "pairs per step, those of all ranks together", at_least=2
    )
    epochs: int | None = option(
        "optimiser",
        int,
        None,
        "passes over the data; the best is kept, of loss simcse the last",
        at_least=1,
    )
    max_steps: int | None = option(
        "optimiser",
        int,
        None,
        "stop after so many steps; the learning rate's decay ends there",
        at_least=1,
    )
    learning_rate: float | None = option("optimiser", float, None, "highest learning rate", above=0)
    warmup_epochs: float | None = option(
        "optimiser",
        float,
        None,
        "epochs in which the learning rate rises (default: 0; codebert 1)",
        at_least=0,
    )
    precision: str = option(
        "optimiser",
        str,
        "fp32",
        "bf16: autocast; tf32: matrix products of an NVIDIA GPU",
        choices=("fp32", "bf16", "tf32"),
    )
    seed: int | None = option(
        "optimiser",
        int,
        None,
        "of initialisation and order, of a teacher trained first too; the split stays the same "
        "(default: 0; presets 1234; 42 with loss simcse)",
        at_least=0,
    )
    select: str = option(
        "optimiser",
        str,
        "valid",
        "the data the best epoch is chosen on; test, as some published code, makes figures on it "
        "too good",
        choices=("valid", "test"),
    )
    compare: bool | None = option(
        "output",
        bool,
        None,
        "train an InfoNCE twin and rank an installed encoder too "
        "(default: yes for a static encoder with loss soft-infonce)",
    )
    output: str = option("output", str, "softnce-model", "folder to write the model into")
    checkpoints: bool | None = option(
        "output",
        bool,
        None,
        "write a checkpoint after each epoch into OUTPUT-checkpoint, which is removed when the run "
        "has ended well (default: yes, but for a static encoder, whose run takes a minute)",
    )
    resume: bool = option(
        "output",
        bool,
        False,
        "go on with the same run, which was killed, from its last checkpoint",
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = checked(each, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        if wrong := conflict(self):
            raise ValueError(wrong)
        self.refuse_unused(
            each.name for each in fields(self) if getattr(self, each.name) != each.default
        )

    @property
    def is_from_scratch(self) -> bool:
        """Whether the static encoder is built here."""
        return self.preset is None and self.model in (None, STATIC)

    @property
    def encoder(self) -> str:
        """The model in words: its folder or name."""
        return self.model or (f"of preset {self.preset}" if self.preset else STATIC)

    def refuse_unused(self, names: Iterable[str]) -> None:
        """Refuse those of these settings that count for nothing; what only says no may stand.

        Raises:
            ValueError: There is one.
        """
        given = set(names)
        for name, other in unused(self).items():
            value = getattr(self, name)
            if name in given and value is not None and value is not False and value != "none":
                raise ValueError(f"{name} is not used by {other}, got {value}")

    def with_loss(self, loss: str) -> TrainSettings:
        """Return the settings of the same run with another loss, without what it does not use."""
        left_out = unused(TrainSettings(loss=loss, model=self.model, preset=self.preset))
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return TrainSettings(**{**kept, "loss": loss})

    def resolved(self, *, static: bool, rows: int | None = None) -> TrainSettings:
        """Fill in what was left open, by the kind of model and the number of training rows."""
        defaults: dict[str, Any] = dict(STATIC_DEFAULTS if static else TRANSFORMER_DEFAULTS)
        if rows is not None:  # few rows: smaller batches, so that an epoch has steps to learn from
            least = max(2, rows // STEPS_PER_EPOCH)
            defaults["batch_size"] = min(defaults["batch_size"], max(LEAST_BATCH, least))
        defaults |= COMMON_DEFAULTS
        if self.preset is not None:
            defaults |= SYSTEMS[self.preset].defaults()
        defaults["scale"] = SCALES[self.scoring or defaults["scoring"]]
        defaults["mask_duplicates"] = self.loss != "simcse"
        defaults["checkpoints"] = not static or self.loss == "simcse"
        defaults["compare"] = self.is_from_scratch and self.loss == WEIGHTED
        left_out = unused(self)
        return replace(
            self,
            **{
                name: value
                for name, value in defaults.items()
                if getattr(self, name) is None and name not in left_out
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Return the settings that count for the result, as JSON values."""
        left_out = {*unused(self), "checkpoints", "resume"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def settings_from(values: Mapping[str, Any], config: str | Path | None = None) -> TrainSettings:
    """Build settings from given values and, for the others, from a YAML file.

    Raises:
        ValueError, TypeError: A name is unknown, a value does not fit, or counts for nothing beside
            the others.
        OSError: The file cannot be read.
    """
    known = [each.name for each in fields(TrainSettings)]
    read = read_yaml(Path(config), known) if config is not None else {}
    given = {**read, **values}
    settings = TrainSettings(**given)
    settings.refuse_unused(given.keys())  # also where it is the default that is given
    return settings
