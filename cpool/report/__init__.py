"""Tables and one self-contained HTML page of what a run measured."""

from pathlib import Path

from cpool.report.loading import load_results
from cpool.report.table import results_markdown, results_table

__all__ = ["load_results", "results_markdown", "results_table", "write_report"]


def write_report(run_dir: Path | str, out: Path | str | None = None) -> Path:
    """Write the report page of a run directory; see `cpool.report.page.write_report`."""
    from cpool.report.page import write_report as write  # plotly is loaded only here

    return write(run_dir, out)
