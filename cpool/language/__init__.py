"""Language models: labels as words, their scores, and what surrounds a text."""

from cpool.language.completions import score_completions
from cpool.language.generation import generate, padding
from cpool.language.scoring import score_labels
from cpool.language.surround import Surround
from cpool.language.template import Template, TemplateLike
from cpool.language.trie import LabelTrie, label_trie
from cpool.language.words import LabelWords, check_readable, readable

__all__ = [
    "LabelTrie",
    "LabelWords",
    "Surround",
    "Template",
    "TemplateLike",
    "check_readable",
    "generate",
    "label_trie",
    "padding",
    "readable",
    "score_completions",
    "score_labels",
]
