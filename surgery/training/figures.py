"""Drawing without a window and without matplotlib's global state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.writing.atomic import replacing
from surgery.errors import TrainingError
from surgery.wording import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: How many curves a legend can name and still be read.
_LEGEND_ROWS = 14


@contextmanager
def figure(path: str | PathLike[str], title: str) -> Iterator[Axes]:
    """Axes to draw on; the picture is written when the block ends well, whole or not at all.

    The suffix of ``path`` is the format. Raises TrainingError where matplotlib is missing or
    does not know the format, and CheckpointError where nothing can be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainingError(
            "plots need matplotlib: pip install 'matplotlib>=3.9', "
            "or the extra plot of model-surgery"
        ) from error
    path = Path(path)
    drawn = Figure(figsize=(9, 4.8), dpi=150, layout="constrained")
    formats = drawn.canvas.get_supported_filetypes()
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in formats:
        raise TrainingError(f"{path}: no picture format; there are .{', .'.join(sorted(formats))}")
    axes = drawn.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    with replacing(path) as draft:
        yield axes
        drawn.savefig(draft, format=suffix)


def draw_groups(
    axes: Axes, x: Sequence[float], curves: Mapping[str, Sequence[float]], **look: Any
) -> None:
    """One curve for each group, dark to bright from the input to the output.

    Groups whose curves are the same are one line with one label, as they would hide each other.
    """
    from matplotlib import colormaps

    shared: dict[tuple[float, ...], list[str]] = {}
    for name, curve in curves.items():
        shared.setdefault(tuple(curve), []).append(name)
    colours = colormaps["viridis"]
    for index, (curve, names) in enumerate(shared.items()):
        colour = colours(0.9 * index / max(len(shared) - 1, 1))
        axes.plot(x, curve, color=colour, linewidth=1.6, label=listed(names, 2), **look)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Beside the curves, in their order; of many, evenly spaced ones, the first and the last."""
    handles, labels = axes.get_legend_handles_labels()
    count = len(handles)
    if count > _LEGEND_ROWS:
        kept = [round(row * (count - 1) / (_LEGEND_ROWS - 1)) for row in range(_LEGEND_ROWS)]
        handles, labels = [handles[i] for i in kept], [labels[i] for i in kept]
    look = {"loc": "outside right upper", "frameon": False, "fontsize": 8}
    if count > _LEGEND_ROWS:
        look["title"] = f"{_LEGEND_ROWS} of {count} curves"
    axes.figure.legend(handles, labels, **look)
