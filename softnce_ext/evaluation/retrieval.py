"""What is ranked: queries, the code base they search, and where in it their gold codes are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoders.text import code_text
from ..lexical import Lexical
from .judgements import number_urls

if TYPE_CHECKING:
    from ..data.codesearchnet_read import Retrieval
    from ..data.pairs import Pair


@dataclass(frozen=True)
class CodeBase:
    """The M functions that are ranked for each query.

    Attributes:
        codes: Their code [M], without documentation.
        names: Their names [M], put before the code where a model was trained so; () for none.
        urls: What judgements and gold codes are named by [M], distinct; () where nothing is.

    Raises:
        ValueError: There is no code, or there are not as many names or urls.
    """

    codes: Sequence[str]
    names: Sequence[str] = ()
    urls: Sequence[str] = ()
    _lexical: dict[bool, tuple[Lexical, float]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if len(self.codes) == 0:
            raise ValueError("codes must hold at least one code, got none")
        if not self.names:
            object.__setattr__(self, "names", [""] * len(self.codes))
        for name, values in (("names", self.names), ("urls", self.urls or self.codes)):
            if len(values) != len(self.codes):
                raise ValueError(
                    f"{name} must be as many as the {len(self.codes)} codes, got {len(values)}"
                )

    def __len__(self) -> int:
        return len(self.codes)

    def texts(self, name_boost: int) -> list[str]:
        """Return the codes as an encoder reads them, each with its name so many times before it."""
        return [
            code_text(name, code, name_boost)
            for name, code in zip(self.names, self.codes, strict=True)
        ]

    def lexical(self, *, plus: bool) -> tuple[Lexical, float]:
        """Return the index of the codes' words, made once, and the seconds that took."""
        if plus not in self._lexical:
            start = time.perf_counter()
            lexical = Lexical(self.names, self.codes, plus=plus)
            self._lexical[plus] = lexical, time.perf_counter() - start
        return self._lexical[plus]


@dataclass(frozen=True)
class RetrievalTask:
    """N queries, each with one gold code among the M of a code base.

    Attributes:
        queries: The queries' texts [N].
        target: Index of each query's gold code, int64 [N].
        base: The code base.
        packages: The package of each query [N], which intervals resample; () for queries.

    Raises:
        ValueError: There is no query, a length differs, or an index is not in the code base.
        TypeError: `target` does not hold integers.
    """

    queries: Sequence[str]
    target: np.ndarray[Any, Any]
    base: CodeBase
    packages: Sequence[str] = ()

    def __post_init__(self) -> None:
        target = np.asarray(self.target)
        if len(self.queries) == 0:
            raise ValueError("queries must hold at least one query, got none")
        if target.shape != (len(self.queries),):
            raise ValueError(f"target must have shape [{len(self.queries)}], got {[*target.shape]}")
        if target.dtype.kind not in "iu":
            raise TypeError(f"target must hold integers, got {target.dtype}")
        bad = np.flatnonzero((target < 0) | (target >= len(self.base)))
        if len(bad):
            raise ValueError(
                f"target must be in [0, {len(self.base)}), "
                f"got {int(target[bad[0]])} for query {int(bad[0])}"
            )
        if self.packages and len(self.packages) != len(self.queries):
            raise ValueError(
                f"packages must have {len(self.queries)} entries, got {len(self.packages)}"
            )
        object.__setattr__(self, "target", target.astype(np.int64))

    @classmethod
    def of_pairs(
        cls, pairs: Sequence[Pair], others: Sequence[Pair] = (), urls: Sequence[str] = ()
    ) -> RetrievalTask:
        """Rank each pair's code among the codes of all pairs and of a code base's functions.

        Args:
            pairs: Queries and their gold codes.
            others: More functions, `query` of no importance. A pair's own function is left out:
                the one at its path and line or, where the pair has none, one of the same code.
            urls: The urls of `others`; a pair has that of its own function, else its place.

        Raises:
            ValueError: There are no pairs.
        """
        if not pairs:
            raise ValueError("pairs must hold at least one pair, got none")
        placed: dict[tuple[str, str, int] | None, int] = {
            place: i for i, pair in enumerate(pairs) if (place := _place(pair))
        }
        by_code: dict[str, list[int]] = {}
        for i, pair in enumerate(pairs):
            if not _place(pair):
                by_code.setdefault(pair.code, []).append(i)
        functions = list(pairs)
        named = [f"{pair.path}#L{pair.line}" for pair in pairs]
        for other, url in zip(others, urls or [""] * len(others), strict=True):
            own = placed.get(_place(other))
            if own is None and by_code.get(other.code):
                own = by_code[other.code].pop(0)
            if own is None:
                functions.append(other)
                named.append(url)
            else:
                named[own] = url
        base = CodeBase(
            [each.code for each in functions],
            [each.name for each in functions],
            named if urls else (),
        )
        packages = [pair.package for pair in pairs]
        return cls([pair.query for pair in pairs], np.arange(len(pairs)), base, packages)

    @classmethod
    def of_prepared(cls, read: Retrieval, base: CodeBase | None = None) -> RetrievalTask:
        """Take what `data.codesearchnet_read.read_retrieval` read: the paper's task.

        Args:
            read: What was read.
            base: That of another partition of the same folder, so that its words are indexed, and
                its codes encoded, once for both.
        """
        base = base or CodeBase(read.codes, read.names, read.code_urls)
        return cls(read.queries, read.target, base, read.packages)

    @classmethod
    def of_urls(
        cls,
        queries: Sequence[str],
        urls: Sequence[str],
        base: CodeBase,
        packages: Sequence[str] = (),
    ) -> RetrievalTask:
        """Find each query's gold code by its url.

        Raises:
            ValueError: A url is not in the code base, or two codes have one.
        """
        numbers = number_urls(base.urls)
        missing = [url for url in urls if url not in numbers]
        if missing:
            raise ValueError(
                f"every query's url must be in the code base, got {missing[0]!r}"
                + (f" and {len(missing) - 1} more that are not" if len(missing) > 1 else "")
            )
        return cls(queries, np.array([numbers[url] for url in urls], np.int64), base, packages)


def as_task(given: Sequence[Pair] | Retrieval | RetrievalTask) -> RetrievalTask:
    """Return the task that is given, or that of pairs or of a prepared partition."""
    from ..data.codesearchnet_read import Retrieval

    if isinstance(given, RetrievalTask):
        return given
    if isinstance(given, Retrieval):
        return RetrievalTask.of_prepared(given)
    return RetrievalTask.of_pairs(given)


def _place(pair: Pair) -> tuple[str, str, int] | None:
    """Where a function stands; None where its file or line is not known."""
    return (pair.package, pair.path, pair.line) if pair.path and pair.line else None
