"""Zero-shot: a hard prompt in front of a language model, and nothing learned."""

from dataclasses import dataclass
from typing import ClassVar

from cpool.backbones import Backbone
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.rules.content_free import ContentFree

__all__ = ["ZeroShot"]


@dataclass(frozen=True)
class ZeroShot(LabelMethod):
    r"""`argmax_c log p(label_c | template(x))`: what a hand-written prompt reaches.

    With `calibrate` the score that a label has after a text without content is taken off:
    `log p(label | template(x)) − log mean_e p(label | template(e))`, e ∈ {"N/A", "[MASK]", "none"}
    (Zhao et al., *Calibrate before use*, ICML 2021, which divides probabilities). A template may
    list the labels seen so far: `"One of {{ labels | join(', ') }}:\\n{{ text }} ->"`.

    Attributes:
        calibrate: take off the scores after texts without content.
    """

    name: ClassVar[str] = "zero_shot"
    summary: ClassVar[str] = "a hard prompt and the label's probability, nothing learned"
    prompts: ClassVar[bool] = False
    closed_form: ClassVar[bool] = True

    calibrate: bool = False

    def compose(self, backbone: Backbone) -> PromptedModel:
        """The language model, the words around a text, and the scores of the labels."""
        rules = [ContentFree()] if self.calibrate else []
        words = self.words(backbone)
        return self.model(backbone, words, rules=rules)
