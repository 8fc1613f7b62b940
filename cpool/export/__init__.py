"""Export: a prompted model with a fixed selection, and what selects, as programs for a server.

Two formats: a `torch.export` program (`.pt2`), which `torch.export.load` reads and torch runs, and
ONNX (`.onnx`), which other runtimes run; the second needs the extra `onnx`. Batch size, and the
number of tokens of a text, are free in both. Beside each program lies a JSON that says what it is.
"""

from cpool.export.prompted import export_prompted
from cpool.export.selector import export_query, export_selector

__all__ = ["export_prompted", "export_query", "export_selector"]
