"""Tables and one self-contained HTML page of what a run measured."""

from cpool.report.results import load_results
from cpool.report.table import results_markdown, results_table

__all__ = ["load_results", "results_markdown", "results_table"]
