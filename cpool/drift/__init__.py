"""Drift on task-free streams: a detector that decides growth, and how to judge one."""

from cpool.drift.detector import DriftDetector
from cpool.drift.judging import judge

__all__ = ["DriftDetector", "judge"]
