"""Chat: words around a text become a user's turn, and an assistant's turn begins after them."""

from typing import Any

from cpool.errors import BackboneError
from cpool.language.template import MARK

__all__ = ["in_chat"]


def in_chat(tokenizer: Any, before: str, after: str) -> tuple[str, str]:
    """Return what stands before and after a text that a user says in a chat.

    The tokenizer's own chat template says how; a system message that it adds by itself is part of
    it. A start token that the tokenizer puts in front of any text is left out, so that there is
    one.

    Args:
        tokenizer: of an instruction-tuned model.
        before: words of the message before the text.
        after: those after it.

    Raises:
        BackboneError: a tokenizer without a chat template, or one that does not take the text as
            it is.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BackboneError(
            expected="a tokenizer with a chat template, for chat=True",
            got=f"{type(tokenizer).__name__} without one",
            remedy="Load an instruction-tuned model, or set chat=False.",
        )
    message = {"role": "user", "content": f"{before}{MARK}{after}"}
    made: str = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    start = tokenizer.bos_token_id
    if start is not None and tokenizer.encode(MARK)[:1] == [start]:
        made = made.removeprefix(tokenizer.bos_token)
    parts = made.split(MARK)
    if len(parts) != 2:
        raise BackboneError(
            expected="a chat template that says the user's message once",
            got=f"{len(parts) - 1} times",
            remedy="Set tokenizer.chat_template, or chat=False.",
        )
    return parts[0], parts[1]
