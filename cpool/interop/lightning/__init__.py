"""cpool in Lightning: a module for its Trainer, and a callback for the borders of a task.

Lightning is imported with this package, and comes with the extra `lightning`.
"""

import importlib.util

from cpool.errors import missing_extra

if importlib.util.find_spec("lightning") is None:
    raise missing_extra("lightning")

from cpool.interop.lightning.callback import TaskCallback
from cpool.interop.lightning.module import PromptModule

__all__ = ["PromptModule", "TaskCallback"]
