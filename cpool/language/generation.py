"""Generation: words that follow a text, each row of a batch under prompts of its own."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from cpool.backbones import Backbone
from cpool.backbones._inputs import Batch, check_length
from cpool.errors import ConfigError
from cpool.inject import prefixes
from cpool.inject._checks import checked, refuse_live
from cpool.inject.start import started
from cpool.prompter import Prompts

__all__ = ["generate", "padding"]


@torch.no_grad()
def generate(
    backbone: Backbone, batch: Batch, prompts: Prompts | None = None, **options: Any
) -> Int[Tensor, "B N"]:
    """Return the ids of new tokens, padded on the right where rows end at different times.

    The language model's own `generate` does it, with whatever strategy `options` name: so greedy
    and beam search, sampling, stopping and streaming are those of transformers. Rows may be padded
    on either side and have different prompts; each gets what it gets alone.

    Args:
        backbone: a frozen language model.
        batch: as `backbone.prepare` makes it.
        prompts: of this batch, tokens and prefixes; or None.
        **options: of `generate`, such as max_new_tokens=20, num_beams=4, streamer=….

    Raises:
        BackboneError: no language model, or prompts that it cannot carry.
        ConfigError: no word asked for, another answer than ids, or a strategy that has to read the
            text from its ids: with prompts there are only embeddings.
        DataError: text, prompts and max_new_tokens exceed the positions of the model.
    """
    refuse_live(prompts)
    model = backbone.language_model
    _check_options(options, model.generation_config)
    batch, prompts = started(backbone, batch, prompts)
    inputs = backbone.model_inputs(batch)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    given = checked(backbone, prompts, len(ids))
    embeds = backbone.plain_model.get_input_embeddings()(ids)
    if given.tokens is not None:
        embeds = torch.cat([given.tokens.to(embeds.dtype), embeds], dim=1)
        mask = given.before(mask)
    # Words are added on the right, so all padding goes to the left: prompts stay beside their text.
    # Columns that are padding in all rows, beside a short text or in front of a short prompt, go.
    order = mask.argsort(dim=1, stable=True)[:, -int(mask.sum(dim=1).max()) :]
    embeds = embeds.gather(1, order[..., None].expand(-1, -1, embeds.shape[2]))
    mask = mask.gather(1, order)
    check_length(
        mask, given.offset + int(options.get("max_new_tokens") or 0), backbone.position_limit
    )
    with prefixes(backbone, given.layers, spans=given.spans):
        made: Tensor = model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            **backbone.positions(mask, given.offset),
            **{**options, "pad_token_id": padding(backbone, options)},
        )
    # A decoder beside an encoder begins its row with a start token, which is no word of the answer.
    return made[:, 1:] if backbone.kind == "seq2seq" else made


# Options that let another model, or a search, read the text from its ids.
_FROM_IDS = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens")


def _check_options(options: Mapping[str, Any], config: Any) -> None:
    """Refuse what transformers would fail at, after a pass or two and in words of its own."""
    settings = options.get("generation_config") or config

    def told(key: str) -> Any:
        return options.get(key, getattr(settings, key, None))

    new = told("max_new_tokens")
    if new is not None and not (isinstance(new, Integral) and int(new) >= 1):
        raise ConfigError(
            expected="max_new_tokens as a whole number of at least 1",
            got=repr(new),
            remedy="Ask for one word or more, or leave it out.",
        )
    if told("return_dict_in_generate"):
        raise ConfigError(
            expected="ids as the answer",
            got="return_dict_in_generate=True",
            remedy="Leave it out, and ask for the probability of words by `score_completions`.",
        )
    asked = [key for key in _FROM_IDS if told(key) is not None]
    # A scale of 1 guides nowhere, and transformers runs no second pass for it.
    asked += ["guidance_scale"] if told("guidance_scale") not in (None, 1) else []
    if asked:
        raise ConfigError(
            expected="a strategy that reads a text from its embeddings, where prompts stand",
            got=f"{asked[0]}, which reads its ids",
            remedy="Leave it out; sampling and beams (do_sample, num_beams) read embeddings.",
        )


def padding(backbone: Backbone, options: Mapping[str, Any]) -> int:
    """Return the id that fills rows which end early: as told, the tokenizer's, or the end's."""
    config = backbone.language_model.generation_config
    end = config.eos_token_id
    known = [
        options.get("pad_token_id"),
        getattr(backbone.processor, "pad_token_id", None),
        config.pad_token_id,
        end[0] if isinstance(end, list) else end,
    ]
    return next((token for token in known if token is not None), 0)
