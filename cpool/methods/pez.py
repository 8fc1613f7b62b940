"""PEZ (Wen et al., NeurIPS 2023): a hard prompt that is learned by gradients, and can be read."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpool.backbones import Backbone
from cpool.errors import PoolError
from cpool.hard_pool import HardPool
from cpool.methods._language import LabelMethod
from cpool.model import PromptedModel
from cpool.prompter import EmbeddingSite
from cpool.settings import TrainSettings

__all__ = ["HardPromptTuning", "words_of_slot"]


@dataclass(frozen=True)
class HardPromptTuning(LabelMethod):
    r"""`log p(label | [proj(P); template(x)])`, proj(P) the token embeddings nearest to P.

    Each step the gradient is taken at the projection and applied to the continuous P
    (`cpool.hard_pool`); when a task ends its slot holds the projection, so that a prompt is exactly
    n words of the model: `words_of_slot` says which. Special tokens are never taken. The paper
    trains with AdamW, rate 0.1; the rate falls to 0 here, since the last words are kept, where its
    code keeps the best of all steps (https://arxiv.org/abs/2302.03668). Slots are chosen as in
    `PromptTuning`.

    Attributes:
        length: n, words; None takes as many as `text` has.
        init: "vocabulary": tokens drawn from the first 5,000; "text": those of `text`;
            "random": U(-0.5, 0.5).
        text: a hard prompt to start from, for "text".
        slots: one prompt a "task", or one "shared" by all.
        forgettable: keep what the router needs to take a task out again (`cpool.exact.forget`), Q²
            numbers a task; with slots="task".
    """

    name: ClassVar[str] = "pez"
    summary: ClassVar[str] = "words found by gradients before the text (Wen et al. 2023)"
    train: ClassVar[TrainSettings] = TrainSettings(
        lr=0.1, epochs=10, batch_size=8, optimizer="adamw", weight_decay=0.1, schedule="cosine"
    )

    length: int | None = 10
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    text: str = "Say what the text is about with one of the labels."
    slots: Literal["task", "shared"] = "task"
    forgettable: bool = False

    def __post_init__(self) -> None:
        """Refuse what the parts below do not check."""
        super().__post_init__()
        self.need_start(("vocabulary", "text", "random"))

    def compose(self, backbone: Backbone) -> PromptedModel:
        """A branch of words at the embedding, and the scores of the labels."""
        words = self.words(backbone)
        size = len(self.token_embedding(backbone).weight)
        tokenizer = backbone.processor
        # A table may have more rows than there are tokens.
        banned = {*tokenizer.all_special_ids, *range(len(tokenizer), size)}
        pool = HardPool(
            self.token_count(backbone, self.length, self.text),
            backbone.hidden_size,
            self.token_start(backbone, words, self.init, self.text),
            backbone.word_table,
            banned=sorted(banned),
        )
        return self.tuned(backbone, words, EmbeddingSite(after_start=backbone.has_start), pool)


def words_of_slot(model: PromptedModel, slot: int = 0) -> list[str]:
    """Return the words of a slot of `HardPromptTuning`, one string a token.

    Joined they are the prompt; its tokens are these as long as the tokenizer cuts it in the same
    places.

    Args:
        model: of the method.
        slot: its place in the pool, the number of its task.

    Raises:
        PoolError: a model without a pool of words, or no such slot.
    """
    pools = [branch.pool for branch in model.prompter or ()]
    if len(pools) != 1 or not isinstance(pools[0], HardPool):
        raise PoolError(
            expected="a model with one pool of words, such as that of the method 'pez'",
            got=f"{[type(pool).__name__ for pool in pools]}",
            remedy="Compare soft prompts with the nearest tokens instead; they are no words.",
        )
    return [model.backbone.processor.decode([i]) for i in pools[0].words(slot).tolist()]
