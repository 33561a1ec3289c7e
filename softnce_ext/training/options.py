"""How a setting is declared, read from YAML and held against its rule."""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Sequence
from dataclasses import Field, field
from pathlib import Path
from typing import Any


def option(
    group: str,
    kind: type,
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a setting: where help shows it, its type, default, description and bounds."""
    bounds = {"at_least": at_least, "at_most": at_most, "above": above, "below": below}
    told = {"group": group, "kind": kind, "help": help, "choices": choices}
    return field(default=default, metadata={**told, **bounds})


def read_yaml(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """Return the values of a YAML file by name.

    Raises:
        ValueError: The file cannot be read, holds no names and values, or one that is not known or
            stands there twice.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tree, read = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must hold YAML: {error}") from error
    if read is None:
        return {}
    if not isinstance(read, dict) or tree is None:
        raise ValueError(f"{path} must hold names and values, got {type(read).__name__}")
    seen: dict[str, int] = {}  # the parser itself keeps the last of a repeated name
    for key, _ in tree.value:
        name, line = str(key.value).replace("-", "_"), key.start_mark.line + 1
        if name in seen:
            raise ValueError(
                f"{path}:{line}: a setting must stand once, got {name} again after line"
                f" {seen[name]}"
            )
        seen[name] = line
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


def checked(each: Field[Any], value: Any) -> Any:
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
    if rule["at_most"] is not None and value > rule["at_most"]:
        raise ValueError(f"{name} must be {wanted} <= {rule['at_most']}, got {value}")
    if rule["above"] is not None and not value > rule["above"]:
        raise ValueError(f"{name} must be {wanted} > {rule['above']}, got {value}")
    if rule["below"] is not None and not value < rule["below"]:
        raise ValueError(f"{name} must be {wanted} < {rule['below']}, got {value}")
    return value
