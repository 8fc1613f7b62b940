"""Few-shot: solved examples in front of the text (in-context learning), and nothing trained."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.language import TemplateLike
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.rules.content_free import ContentFree
from cpool.rules.demonstrations import Demonstrations
from cpool.rules.neighbours import Neighbours
from cpool.settings import is_whole

__all__ = ["FewShot"]


@dataclass(frozen=True)
class FewShot(LabelMethod):
    """`argmax_c log p(label_c | examples, template(x))`, k examples a class (Brown et al., 2020).

    The examples are drawn at random from the training data of the task that brings their class,
    and stay: they are raw text, kept in the checkpoint, and every request pays for them again. With
    `pick="nearest"` all training texts are kept, and each text is shown those of each class that
    are most like it, by the cosine of the backbone's own features (Liu et al., 2022).

    Attributes:
        each: k, examples a class.
        pick: "random", the same for every text, or "nearest" to it, the most similar last.
        calibrate: take off the scores after texts without content, see `ZeroShot`.
    """

    name: ClassVar[str] = "few_shot"
    summary: ClassVar[str] = "solved examples before the text, nothing learned (Brown et al. 2020)"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    template: TemplateLike = (
        "{% for e in examples %}{{ e.text }}\nLabel: {{ e.label }}\n\n{% endfor %}"
        "{{ text }}\nLabel:"
    )
    each: int = 1
    pick: Literal["random", "nearest"] = "random"
    calibrate: bool = False

    def __post_init__(self) -> None:
        """Refuse what shows no example."""
        super().__post_init__()
        self.need(is_whole(self.each) and self.each >= 1, "each", "at least 1")
        self.need(self.pick in ("random", "nearest"), "pick", '"random" or "nearest"')
        self.need("examples" in self.template_text, "template", "with a loop over examples")

    def compose(self, backbone: Backbone) -> PromptedModel:
        """The language model, the examples around a text, and the scores of the labels."""
        words = self.words(backbone)
        surround = self.surround(words)
        near = self.pick == "nearest"
        shown = (
            Neighbours(surround, self.each, backbone)
            if near
            else Demonstrations(surround, self.each)
        )
        rules = [shown, *([ContentFree()] if self.calibrate else [])]
        return self.model(backbone, words, surround=surround, rules=rules)
