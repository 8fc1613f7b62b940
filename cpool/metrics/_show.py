"""An accuracy matrix for the eye: as text, and as a plotly figure."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = ["heatmap", "text_table"]


def text_table(
    values: Float[np.ndarray, "tasks tasks"], sizes: Int[np.ndarray, "tasks"], most: int = 12
) -> str:
    """Lay out `values` with "—" for what was not measured; past `most` tasks only the ends."""
    tasks = len(values)
    shown = [*range(tasks)] if tasks <= most else [*range(most // 2), *range(tasks - 3, tasks)]
    rows = [["", *(f"task {i}" for i in shown)]]
    for t in shown:
        cells = ("—" if np.isnan(values[t, i]) else f"{values[t, i]:.3f}" for i in shown)
        rows.append([f"after {t}", *cells])
    rows.append(["n", *(str(sizes[i]) if sizes[i] else "—" for i in shown)])
    width = max(len(row[0]) for row in rows)
    lines = ["  ".join([row[0].ljust(width), *(cell.rjust(7) for cell in row[1:])]) for row in rows]
    left_out = f" ({tasks - len(shown)} of them not shown)" if len(shown) < tasks else ""
    head = f"AccuracyMatrix, {tasks} tasks{left_out}; row: after training, column: test task"
    return "\n".join([head, *lines]) if tasks else "AccuracyMatrix, empty"


def heatmap(values: Float[np.ndarray, "tasks tasks"], title: str) -> Any:
    """Draw `values` with the first task on top, colour-blind safe, percent in the cells."""
    import plotly.graph_objects as go

    names = [str(i) for i in range(len(values))]
    text = [["" if np.isnan(v) else f"{100 * v:.0f}" for v in row] for row in values]
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(v) else 100 * float(v) for v in row] for row in values],
            x=names,
            y=names,
            text=text,
            texttemplate="%{text}",
            hovertemplate="task %{x} after training task %{y}: %{z:.1f} %<extra></extra>",
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": "accuracy, %"}},
        )
    )
    figure.update_layout(
        title={"text": title},
        xaxis={"title": {"text": "test task"}, "type": "category", "constrain": "domain"},
        yaxis={
            "title": {"text": "after training task"},
            "type": "category",
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
        },
    )
    return figure
