"""ModelTokenizer: a tokenizer that also puts a model's words around each text."""

from typing import Any

from transformers import BatchEncoding

from cpool.model import PromptedModel

__all__ = ["ModelTokenizer"]


class ModelTokenizer:
    """The tokenizer of the frozen model, called as the prompted model wants its texts.

    Words around a text, room for prompts and labels, and the query by which prompts are chosen are
    those of `PromptedModel.prepare`. All else is the tokenizer's own.

    Args:
        prompted: the model.
    """

    def __init__(self, prompted: PromptedModel) -> None:
        self.prompted = prompted

    def __call__(self, text: Any, **options: Any) -> BatchEncoding:
        """Return tensors for one text or several, padded to the longest.

        Args:
            text: a text, or a list of them.
            **options: ignored: the model decides about length, padding and form.
        """
        texts = [text] if isinstance(text, str) else list(text)
        return BatchEncoding(self.prompted.prepare(texts))

    def __getattr__(self, name: str) -> Any:
        # Not found here: an attribute of the tokenizer, such as its pad token.
        if name == "prompted":
            raise AttributeError(name)
        return getattr(self.prompted.backbone.processor, name)
