"""Merging models that learned different tasks, and forgetting a task, where both are exact.

Exact means: equal to having learned the tasks in sequence, and equal to never having seen the
task, in every weight up to the rounding of float64 sums. Two kinds of methods allow it: those in
which each task trains prompts of its own and nothing else, and closed-form statistics that add up
over tasks, on the frozen model or on prompts that no later task trains. Everything else is refused
with the part that forbids it.
"""

from cpool.exact.forgetting import forget, split
from cpool.exact.merging import branch_off, copy_slots, merge

__all__ = ["branch_off", "copy_slots", "forget", "merge", "split"]
