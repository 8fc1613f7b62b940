"""Prompted models as a classifier of scikit-learn: fit, partial_fit, search, pipelines."""

from cpool.interop.sklearn.classifier import PromptPoolClassifier

__all__ = ["PromptPoolClassifier"]
