"""Draw a result file of the loss step: time and memory over the batch size.

    python benchmarks/plots.py [--results DIR] [--device cuda]

Writes DIR/loss_DEVICE.png; without matplotlib, or without the file, it says so and draws nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import machine


def series(steps: list[dict[str, Any]], name: str, key: str) -> tuple[list[int], list[float]]:
    found = sorted(
        (entry["rows"], entry["contenders"][name][key])
        for entry in steps
        if entry["contenders"].get(name, {}).get(key)
    )
    return [rows for rows, _ in found], [value for _, value in found]


def draw(data: dict[str, Any], target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = data["results"]["steps"]
    main = steps[0]["dtype"]
    steps = [entry for entry in steps if entry["dtype"] == main and not entry["tf32"]]
    kinds = list(dict.fromkeys(entry["similarity"] for entry in steps))
    names = list(dict.fromkeys(name for entry in steps for name in entry["contenders"]))
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors, strict=False))
    figure, axes = pyplot.subplots(2, len(kinds), figsize=(6 * len(kinds), 8), squeeze=False)
    for column, kind in enumerate(kinds):
        chosen = [entry for entry in steps if entry["similarity"] == kind]
        for row, (key, unit) in enumerate((("time_ms", "ms a step"), ("peak_mib", "MiB"))):
            axis = axes[row][column]
            for name in names:
                x, y = series(chosen, name, key)
                if x:
                    style = "--" if name == "gemms" else "-"
                    look = {"color": colours[name], "marker": "o", "markersize": 3}
                    axis.plot(x, y, style, label=name, **look)
            axis.set(xscale="log", yscale="log", xlabel="N = M", ylabel=unit)
            axis.set_title(f"similarity: {kind}, {main}")
            axis.grid(visible=True, which="both", alpha=0.2)
        axes[0][column].legend(fontsize=7)
    facts = data["machine"]
    figure.suptitle(f"{facts['gpu'] or facts['processor']}, torch {facts['torch']}")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    args = parser.parse_args()
    file = args.results / f"loss_{args.device}.json"
    if not file.is_file():
        print(f"no plot: {file} is not there")
        return
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        print(f"no plot: {error}")
        return
    target = file.with_suffix(".png")
    draw(json.loads(file.read_text()), target)
    print(f"drawn: {target}")


if __name__ == "__main__":
    main()
