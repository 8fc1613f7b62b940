"""cpool in Lightning: a module for its Trainer, and a callback for the borders of a task.

Lightning is imported with this package, and comes with the extra `lightning`.
"""

import importlib.util

from cpool.errors import MissingDependencyError

if importlib.util.find_spec("lightning") is None:
    raise MissingDependencyError(
        expected="the package lightning",
        got="none",
        remedy="Install it with: pip install 'continual-prompt-pool[lightning]'",
    )

from cpool.interop.lightning.callback import TaskCallback
from cpool.interop.lightning.module import PromptModule

__all__ = ["PromptModule", "TaskCallback"]
