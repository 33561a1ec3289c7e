"""What a training run can be told: one truth for flags, YAML file and the saved JSON."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

STATIC = "static"  # the model that is built here, from nothing

# What None stands for, by the kind of model. The static figures were chosen on validation
# packages; a transformer's are the usual ones of fine-tuning.
STATIC_DEFAULTS = {"batch_size": 1024, "epochs": 2, "learning_rate": 2e-2, "code_length": 64}
STEPS_PER_EPOCH = 16  # at least, while batches stay above LEAST_BATCH pairs
LEAST_BATCH = 16
TRANSFORMER_DEFAULTS = {"batch_size": 32, "epochs": 1, "learning_rate": 2e-5, "code_length": 256}


def _option(
    kind: type,
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a setting: its type, default, description and bounds."""
    rule = {"kind": kind, "help": help, "at_least": at_least, "above": above, "choices": choices}
    return field(default=default, metadata=rule)


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a training run.

    Batch size, epochs, learning rate, code length and `compare` may be None until `resolved` fills
    them in by the kind of model.

    Raises:
        ValueError, TypeError: A value is of another type or out of range.
    """

    model: str = _option(
        str, STATIC, f'encoder to train: a folder, a hub name, or "{STATIC}" for one from scratch'
    )
    init: str | None = _option(
        str, None, "pretrained encoder that gives the static encoder's word pieces a start"
    )
    data: str | None = _option(
        str, None, "folder of source, or JSON lines (CodeSearchNet's too); default: this Python"
    )
    manifest: str | None = _option(str, None, "manifest.json of an earlier run: use its split")
    loss: str = _option(str, "soft-infonce", "the loss", choices=("soft-infonce", "infonce"))
    estimator: str = _option(
        str, "bm25", "what finds false negatives for soft-infonce", choices=("bm25", "none")
    )
    alpha: float | None = _option(
        float, None, "how strongly similar negatives are weakened", at_least=0
    )
    beta: float | None = _option(float, None, "constant part of a negative's weight")
    temperature: float | None = _option(float, None, "of the softmax over similarities", above=0)
    scale: float = _option(float, 20.0, "multiplies the cosine in the loss", above=0)
    batch_size: int = _option(int, None, "pairs per step", at_least=2)
    epochs: int = _option(int, None, "passes over the data; the best is kept", at_least=1)
    learning_rate: float = _option(float, None, "highest learning rate", above=0)
    code_length: int = _option(int, None, "tokens of a text that are read", at_least=1)
    name_boost: int = _option(int, 5, "how often a function's name precedes its code", at_least=0)
    vocab_size: int = _option(int, 4000, "word pieces of the static encoder", at_least=100)
    dimension: int = _option(int, 1024, "width of the static encoder", at_least=1)
    seed: int = _option(int, 0, "of initialisation and order; the split stays the same", at_least=0)
    compare: bool = _option(bool, None, "train an InfoNCE twin and rank an installed encoder too")
    output: str = _option(str, "softnce-model", "folder to write the model into")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = _checked(each, getattr(self, each.name))
            object.__setattr__(self, each.name, value)
        if self.loss == "soft-infonce" and self.estimator == "none":
            raise ValueError("estimator must be bm25 with loss soft-infonce, got none")
        if self.init is not None and self.model != STATIC:
            raise ValueError(f"init is for model {STATIC} alone, got model {self.model}")

    def resolved(self, *, static: bool, rows: int | None = None) -> TrainSettings:
        """Fill in what was left open, by the kind of model and the number of training rows."""
        defaults: dict[str, Any] = dict(STATIC_DEFAULTS if static else TRANSFORMER_DEFAULTS)
        if rows is not None:  # few rows: smaller batches, so that an epoch has steps to learn from
            least = max(2, rows // STEPS_PER_EPOCH)
            defaults["batch_size"] = min(defaults["batch_size"], max(LEAST_BATCH, least))
        defaults["compare"] = self.model == STATIC and self.loss == "soft-infonce"
        open_ = {name: v for name, v in defaults.items() if getattr(self, name) is None}
        return replace(self, **open_)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


def settings_from(values: Mapping[str, Any], config: str | Path | None = None) -> TrainSettings:
    """Build settings from given values and, for the others, from a YAML file.

    Raises:
        ValueError, TypeError: A name is unknown, or a value does not fit.
        OSError: The file cannot be read.
    """
    merged = {**(_read_yaml(Path(config)) if config is not None else {}), **values}
    return TrainSettings(**merged)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must hold YAML: {error}") from error
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise ValueError(f"{path} must hold names and values, got {type(read).__name__}")
    known = [each.name for each in fields(TrainSettings)]
    values = {}
    for key, value in read.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else f"; known are {', '.join(known)}"
            raise ValueError(f"{path} has an unknown setting {key!r}{hint}")
        values[name] = value
    return values


_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _checked(each: Field[Any], value: Any) -> Any:
    """Return a setting's value in its type; raise where it breaks a rule."""
    rule, name = each.metadata, each.name
    if value is None and each.default is None:
        return None
    kind, wanted = rule["kind"], _KINDS[rule["kind"]]
    if kind is float and not isinstance(value, bool):
        # YAML reads 2e-2 as text, for want of a decimal point.
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if rule["choices"] and value not in rule["choices"]:
        raise ValueError(f"{name} must be one of {', '.join(rule['choices'])}, got {value!r}")
    if kind is str and not value.strip():
        raise ValueError(f"{name} must not be empty, got {value!r}")
    if rule["at_least"] is not None and value < rule["at_least"]:
        raise ValueError(f"{name} must be {wanted} >= {rule['at_least']}, got {value}")
    if rule["above"] is not None and not value > rule["above"]:
        raise ValueError(f"{name} must be {wanted} > {rule['above']}, got {value}")
    return value
