"""PromptSearch: the best of several hard prompts, chosen on the training rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.language import Template, TemplateLike
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.rules.content_free import BLANK, ContentFree
from cpool.rules.template_search import TemplateSearch
from cpool.settings import is_whole

__all__ = ["PromptSearch"]


@dataclass(frozen=True)
class PromptSearch(LabelMethod):
    r"""`argmax_c log p(label_c | m*(x))`, `m* = argmax_m Σ_{(x, y)} score(m(x), y)`.

    Nothing is learned but which template to use: the step of selection in APE, by one of its two
    scores (Zhou et al., *Large language models are human-level prompt engineers*, ICLR 2023; there
    a language model writes the candidates). On a stream one template serves all classes: the scores
    of each task's rows, among the classes of the task, are added to those of the tasks before, and
    the best sum so far is used. It may change with a task, and no old row is needed for that.

    Attributes:
        candidates: tried beside `template`, which is the first, and given as it is; of equal ones
            the first is taken.
        rows: training rows of each task at most, drawn at random.
        score: "accuracy", or "loss", the log-probability of the right label, in which confident
            mistakes cost much: a template that is right less often may win by it.
        calibrate: take off the scores after texts without content, see `ZeroShot`; candidates are
            compared as they would be used, each with its own taken off.
    """

    name: ClassVar[str] = "prompt_search"
    summary: ClassVar[str] = "the best of several hard prompts on training rows (Zhou et al. 2023)"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    candidates: tuple[TemplateLike, ...] = (
        "Text: {{ text }}\nLabel:",
        "{{ text }}\nCategory:",
        "{{ text }}\nThis is about",
        "{{ text }}\nQuestion: What is this about?\nAnswer:",
        "Labels: {{ labels | join(', ') }}.\n{{ text }}\nLabel:",
        "Say what the text is about with one of these labels: {{ labels | join(', ') }}.\n"
        "Text: {{ text }}\nLabel:",
        "{{ text }}\nWhich of these fits best: {{ labels | join(', ') }}?\nAnswer:",
    )
    rows: int = 64
    score: Literal["accuracy", "loss"] = "accuracy"
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Refuse candidates that are no templates, and scores that are none."""
        super().__post_init__()
        several = not isinstance(self.candidates, str | Path | Template)
        self.need(several, "candidates", "as a list of templates, not a single one")
        texts = tuple(Template.of(candidate).source for candidate in self.candidates)
        object.__setattr__(self, "candidates", texts)
        self.need(bool(self.candidates), "candidates", "with at least one template")
        self.need(is_whole(self.rows) and self.rows >= 1, "rows", "at least 1")
        self.need(self.score in ("accuracy", "loss"), "score", '"accuracy" or "loss"')
        self.need(isinstance(self.calibrate, bool), "calibrate", "true or false")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """The language model, the words around a text, and the scores of the labels."""
        words = self.words(backbone)
        surround = self.surround(words)
        sources = dict.fromkeys((self.template, *self.candidates))  # each once, in order
        templates = [Template.of(source) for source in sources]
        blank = BLANK if self.calibrate else ()
        rule = TemplateSearch(surround, templates, self.rows, self.score, blank)
        rules = [rule, *([ContentFree(blank)] if self.calibrate else [])]
        return self.model(backbone, words, surround=surround, rules=rules)
