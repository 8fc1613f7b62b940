"""Who is best, and who is as good: the order and the marks of every results table."""

from collections.abc import Sequence

from cpool.report.results import Row

__all__ = ["BEST", "CLOSE", "best_row", "caption", "marks", "ordered", "setting_warning"]

BEST, CLOSE = "★", "≈"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Sort by average accuracy, best first; what has none after it, upper bounds at the end.

    Rows of different settings do not compare and stay apart, in the order of the files.
    """
    settings = list(dict.fromkeys(row.setting for row in rows))

    def rank(row: Row) -> tuple[int, bool, bool, float]:
        stat = row.stat("average_accuracy")
        group, bound = settings.index(row.setting), row.role == "upper bound"
        return group, bound, stat is None, -(stat.mean if stat else 0.0)

    return sorted(rows, key=rank)


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the row of the highest average accuracy that is no upper bound, or None."""
    first = ordered(rows)[0] if rows else None
    measured = first is not None and first.stat("average_accuracy") is not None
    return first if measured and first is not None and first.role != "upper bound" else None


def marks(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """Mark the best row ★ and those within one deviation of it ≈, by (run, label).

    Rows compare only in the same setting, so each setting has a best of its own. The
    deviation is the larger of the two rows'. Upper bounds get no mark.
    """
    result: dict[tuple[str, str], str] = {}
    for setting in {row.setting for row in rows}:
        group = [row for row in rows if row.setting == setting and row.role != "upper bound"]
        best = best_row(group)
        if best is None:
            continue
        top = best.stat("average_accuracy")
        for row in group:
            stat = row.stat("average_accuracy")
            if stat is None or top is None:
                continue
            reach = max(stat.deviation or 0.0, top.deviation or 0.0)
            if row is best or top.mean - stat.mean <= reach:
                result[row.run, row.label] = BEST if row is best else CLOSE
    return result


def caption(rows: Sequence[Row]) -> str:
    """Name the best row in one line, and say so when it is a baseline without prompts.

    One setting only; several have no common best.
    """
    best = best_row(rows)
    if len({row.setting for row in rows}) > 1:
        return f"{BEST} best of each setting (rows of different settings do not compare)."
    if best is None:
        return "No row has an average accuracy yet."
    kind = ", a baseline without prompts" if best.role == "baseline" else ""
    close = CLOSE in marks(rows).values()
    return f"Best: {best.label}{kind}." + (f" {CLOSE} within one deviation of it." if close else "")


def setting_warning(rows: Sequence[Row]) -> str | None:
    """Say what of the setting differs between the runs; None when nothing does."""
    parts = {name: None for row in rows for name in row.setting.differing(rows[0].setting)}
    if not parts:
        return None
    verb = "differs" if len(parts) == 1 and "query features" not in parts else "differ"
    what = f"Warning: the {' and the '.join(parts)} {verb} between the runs"
    return f"{what}: their numbers do not compare."
