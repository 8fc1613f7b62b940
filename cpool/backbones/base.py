"""Backbone: a frozen Hugging Face model, its query features, and how its inputs are made."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.backbones import images, text
from cpool.backbones._call import CALL, Call, active
from cpool.backbones._inputs import Batch, check_length, picked, smallest
from cpool.backbones._states import compiled
from cpool.backbones._words import cache_of, said_of, scaled
from cpool.backbones.completions import prepare_completions
from cpool.backbones.families import find
from cpool.backbones.frozen import FrozenModel
from cpool.backbones.pooling import Pooling, check_layers, pool_layers, resolve_pooling
from cpool.errors import BackboneError

__all__ = ["Backbone"]


class Backbone(FrozenModel):
    """A frozen Hugging Face model: its inputs, its forward, its features, its words.

    Made by `load_backbone` or `wrap_model`. `train()` leaves it in eval mode, and a deep copy of a
    module that holds it shares it. The arguments are those of `FrozenModel`.
    """

    # ---- inputs -------------------------------------------------------------------------------

    def prepare(
        self,
        inputs: Any,
        max_tokens: int | None = None,
        around: text.Around = ("", ""),
        completions: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Turn raw images or texts into the tensors of a batch, on the CPU.

        Args:
            inputs: texts; or images, one array [n H W] or [n H W C] or a sequence of arrays, PIL
                images or paths; uint8, or float in [0, 1].
            max_tokens: cut texts to this many tokens, so that prompts fit too; never more than
                `self.max_tokens`. Cut texts give one warning that counts them.
            around: words before and after each text, which are never cut; or a function that
                gets the texts and returns such a pair for each.
            completions: what shall follow each text; adds "completion" [B L], see
                `cpool.backbones.completions`. They are never cut, and a text leaves them room.

        Raises:
            DataError: empty texts, images of a wrong shape or type, NaN or infinite values; or
                completions that are empty, or leave no room for a text.
            BackboneError: the backbone has no processor, or no words for completions.
        """
        if self.processor is None:
            raise BackboneError(
                expected="a processor (tokenizer or image processor)",
                got=f"none in backbone {self.name!r}",
                remedy="Give one to `wrap_model(model, processor)`, or pass tensors.",
            )
        if completions is not None and not self.has_words:
            raise BackboneError(
                expected="a language model, to read what shall follow a text",
                got=f"{self.name!r} ({self.family}, {self.kind})",
                remedy="Use a decoder or a T5, or pass no completions.",
            )
        if self.kind == "vision":
            channels = getattr(self.plain_model.config, "num_channels", 3)
            return {"pixel_values": images.prepare(inputs, self.processor, channels)}
        limits = [n for n in (max_tokens, self.max_tokens) if n is not None]
        limit = min(limits, default=None)
        if completions is None:
            return text.prepare(inputs, self.processor, limit, around)
        apart = self.kind == "seq2seq"  # there the answer has positions of its own
        return prepare_completions(inputs, completions, self.processor, limit, around, apart=apart)

    def smallest_batch(self) -> dict[str, Tensor]:
        """Return a batch of one black image or of two tokens, to try a model out."""
        return smallest(self.plain_model.config, self.kind)

    def model_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the keys of `batch` that the model takes, on its device; labels stay behind.

        Raises:
            DataError: the main input is missing or has a wrong shape.
        """
        return picked(batch, self.kind, self._takes, self.device, self.dtype)

    def positions(
        self, mask: Int[Tensor, "B T"], offset: int | Int[Tensor, "B 1"] = 0
    ) -> dict[str, Tensor]:
        """Return `position_ids` [B T] counted over real tokens from `offset`, if we count them.

        Counting over the mask makes a row the same alone, padded left and padded right.

        Raises:
            DataError: more real tokens than the model has positions.
        """
        check_length(mask, offset, self.position_limit)
        if self.kind_of.positions == "own" or "position_ids" not in self._takes:
            return {}
        return {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0) + offset}

    # ---- forward ------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Tensor], wanted: Sequence[int] = ()) -> dict[int, Tensor]:
        """Run the model once; return the wanted hidden states by number, and the final one.

        Numbers are 0 (embeddings) to L (final). The current `Call`, if any, decides which prompts
        are put in; here and in `cache_of` alone the model is called.
        """
        if CALL.get() is None:
            with active(Call()):
                return self.run(inputs, wanted)
        cache = {"use_cache": False} if self.kind == "causal" else {}
        with self._states.captured(wanted) as states, self._ready():
            final = self.model(**inputs, **cache).last_hidden_state
        if self.final_norm_path and (norm := find(self.plain_model, self.final_norm_path)):
            final = norm(final)
        states[self.num_layers] = final
        return states

    def _ready(self) -> AbstractContextManager[Any]:
        """Put a frozen model back into evaluation; what it returns is open while it is called."""
        if self.frozen and self.plain_model.training:
            self.plain_model.eval()
        if not compiled(self.model):
            return nullcontext()
        # Compiled code does not look at hooks by default, and would silently drop the prompts.
        import torch._dynamo.config as dynamo

        return dynamo.patch(skip_nnmodule_hook_guards=False)  # type: ignore[no-any-return]

    @cached_property
    def kept_shapes(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] | None:
        """Shapes of the keys and values that each layer of a decoder keeps of two tokens.

        Found by one pass. None where it is no decoder, or a layer keeps something else, such as the
        state of a recurrence.
        """
        # A copy that trains may drop some states out, or keep nothing under checkpointing.
        training = [module for module in self.plain_model.modules() if module.training]
        self.plain_model.eval()
        try:
            with torch.no_grad():
                kept = self.cache_of(torch.zeros(2, dtype=torch.int64))
        except BackboneError:
            return None
        finally:
            for module in training:
                module.training = True
        return tuple((tuple(key.shape), tuple(value.shape)) for key, value in kept)

    # ---- features -----------------------------------------------------------------------------

    def encode(
        self, batch: Batch, *, layers: Sequence[int] = (-1,), **model_kwargs: Any
    ) -> tuple[tuple[Float[Tensor, "B T D"], ...], Bool[Tensor, "B T"]]:
        """Run the model without prompts; return the states of `layers` and the real-token mask."""
        numbers = [i % (self.num_layers + 1) for i in check_layers(layers, self.num_layers)]
        inputs = self.model_inputs(batch)
        mask = inputs.get("attention_mask")
        positions = {} if mask is None else self.positions(mask)
        with active(Call()):  # no prompts, also inside a context that has some
            states = self.run({**inputs, **positions, **model_kwargs}, numbers)
        return tuple(states[i] for i in numbers), self.real_tokens(mask, states[self.num_layers])

    @staticmethod
    def real_tokens(
        mask: Int[Tensor, "B T"] | None, hidden: Float[Tensor, "B T D"]
    ) -> Bool[Tensor, "B T"]:
        """Return the mask as booleans; all True for models without padding."""
        if mask is not None:
            return mask.bool()
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)

    def pool(
        self, hidden_states: Sequence[Float[Tensor, "B T D"]], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B Q"]:
        """Pool hidden states as the query is pooled; float32 at least.

        Args:
            hidden_states: all L+1 of them, of which `self.layers` are read; or the final one
                alone, when the query reads no other.
            mask: real tokens; prompts and padding are False.

        Raises:
            BackboneError: the states of `self.layers` are not among them.
        """
        states, number = list(hidden_states), self.num_layers + 1
        wanted = [i % number for i in self.layers]
        if len(states) == number:
            states = [states[i] for i in wanted]
        elif len(states) != 1 or set(wanted) != {self.num_layers}:
            raise BackboneError(
                expected=f"all {number} hidden states, of which layers {self.layers} are read",
                got=f"{len(states)}",
                remedy="Call `encode(…, all_layers=True)`.",
            )
        return pool_layers(states, mask, self.pooling, self.normalize)

    def features(
        self,
        batch: Batch,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        layers: Sequence[int] | None = None,
    ) -> Float[Tensor, "B Q"]:
        """Return unprompted features, by default those of `query`; float32 at least.

        A frozen backbone gives no gradient and leaves automatic mixed precision out, so that a
        cached feature, one of training and one of evaluation are the same numbers.
        """
        chosen = (
            self.pooling if pooling is None else resolve_pooling(pooling, self.kind_of, self.family)
        )
        norm = self.normalize if normalize is None else normalize
        layers = self.layers if layers is None else layers
        if not self.frozen:
            return pool_layers(*self.encode(batch, layers=layers), chosen, norm)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return pool_layers(*self.encode(batch, layers=layers), chosen, norm)

    def query(self, batch: Batch) -> Float[Tensor, "B Q"]:
        """Return the features by which prompts are chosen, as `spec()` says; no gradient."""
        return self.features(batch)

    @property
    def cls_position(self) -> Float[Tensor, " D"]:
        """What a vision model adds to its [CLS] token for the position that it has.

        Raises:
            BackboneError: no vision model with [CLS] and learned positions.
        """
        for name in ("embeddings.position_embeddings", "embeddings.position_embedding"):
            module, _, last = name.rpartition(".")
            found = getattr(find(self.plain_model, module), last, None)
            table = getattr(found, "weight", found)  # an embedding, or a parameter
            if self.kind == "vision" and self.has_cls and isinstance(table, Tensor):
                return table.detach().reshape(-1, self.hidden_size)[0]
        raise BackboneError(
            expected="a vision model with a [CLS] token and learned positions",
            got=f"{self.name!r} ({self.family}, {self.kind})",
            remedy="Use a ViT, DeiT, DINOv2 or CLIP, or give prompts no position.",
        )

    # ---- words --------------------------------------------------------------------------------

    @property
    def has_start(self) -> bool:
        """Whether every text begins with a start token, behind which a hard prompt stands."""
        return self.start_token is not None

    @cached_property
    def start_token(self) -> int | None:
        """The token that a decoder's tokenizer puts in front of every text; None if it does not.

        Llama's, Mistral's and Gemma's do; SmolLM2's, Qwen's and GPT-2's do not.
        """
        if self.kind != "causal" or not hasattr(self.processor, "encode"):
            return None
        whole = self.processor.encode("a")
        bare = self.processor.encode("a", add_special_tokens=False)
        return int(whole[0]) if whole[:1] != bare[:1] else None

    @property
    def vocabulary_size(self) -> int:
        """V, the number of words that `word_logits` scores."""
        return int(self.language_model.get_output_embeddings().out_features)

    def word_logits(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Return the scores of the next word after final hidden states.

        Raises:
            BackboneError: a model without an output embedding.
        """
        head = self.language_model.get_output_embeddings()
        # Of states cut from longer rows torch makes a product a row, and copies the table for each.
        states = hidden.to(self._word_type(head)).contiguous()
        return scaled(head(states), self.plain_model.config)

    def _word_type(self, head: Any) -> torch.dtype:
        """Return the type of states that an output embedding takes: its own, if it is a number's.

        Quantised, it packs bytes, or keeps no weight that could be asked.
        """
        weight = head.weight
        plain = isinstance(weight, Tensor) and weight.is_floating_point()
        return weight.dtype if plain else self.dtype

    def word_table(self, first: int | None = None) -> Float[Tensor, "V W"]:
        """Return what tokens are where a text enters, the `first` of them or all.

        That is the table of the embedding, not copied, or in models such as Gemma, which scale it,
        what the embedding makes of each.
        """
        embed = self.plain_model.get_input_embeddings()
        table: Tensor = embed.weight[:first]
        if type(embed).forward is nn.Embedding.forward:
            return table
        with torch.no_grad():
            made: Tensor = embed(torch.arange(len(table), device=table.device))
        return made

    def cache_of(
        self, tokens: Int[Tensor, " T"] | Float[Tensor, "T D"]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values that a decoder keeps of some tokens, layer by layer.

        Args:
            tokens: their ids, or what stands for them at the embedding, such as a soft prompt, to
                which gradients go; at positions from 0.

        Returns:
            For each layer keys, turned to their positions, and values: [1 heads T head_dim].

        Raises:
            BackboneError: no decoder, or one that keeps something else.
        """
        if self.kind != "causal":
            raise BackboneError(
                expected="a decoder, which keeps keys and values of what it has read",
                got=f"{self.name!r} ({self.family}, {self.kind})",
                remedy="Use a language model such as Llama, Qwen2 or GPT-2.",
            )
        # A copy: there are models that scale what they are given in place.
        own = tokens.to(self.dtype) if tokens.is_floating_point() else tokens
        own = own.to(self.device, copy=True)[None]
        with active(Call()), self._ready():
            return cache_of(self.model, own)

    def read_of(
        self, tokens: Int[Tensor, " T"], *, after_start: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Return what a prefix of these words is: `cache_of` or, of an encoder–decoder, `said_of`.

        Args:
            tokens: their ids.
            after_start: read behind the start token, if the tokenizer has one.
        """
        if self.kind != "causal":
            return self.said_of(tokens)
        start = self.start_token if after_start else None
        if start is None:
            return self.cache_of(tokens)
        kept = self.cache_of(torch.cat([tokens.new_tensor([start]), tokens]))
        return [(key[:, :, 1:], value[:, :, 1:]) for key, value in kept]

    def said_of(self, tokens: Int[Tensor, " T"]) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values of a decoder beside an encoder that repeats what it has read.

        The encoder reads the tokens, and the decoder says them after its start token. They are
        those of no prompt in front of a text, which an encoder–decoder reads in its encoder, but
        such as its decoder has met.

        Args:
            tokens: their ids.

        Returns:
            For each layer of the decoder keys and values: [1 heads T head_dim].

        Raises:
            BackboneError: no encoder–decoder, or one without its decoder.
        """
        if self.kind != "seq2seq":
            raise BackboneError(
                expected="an encoder–decoder, whose decoder keeps keys and values of what it says",
                got=f"{self.name!r} ({self.family}, {self.kind})",
                remedy="Use a T5, or `cache_of` of a decoder.",
            )
        own = tokens.to(self.device)[None]
        start = own.new_tensor([[self.decoder_start]])
        with active(Call()), torch.no_grad(), self._ready():
            read = self.model(input_ids=own).last_hidden_state
            kept = said_of(self.prefix_model, torch.cat([start, own], dim=1), read)
        return [(key[:, :, 1:], value[:, :, 1:]) for key, value in kept]

    def __repr__(self) -> str:
        """Say what it is in one line; the model prints itself as `backbone.model`."""
        query = f"query={self.pooling!r}, layers={self.layers}, normalize={self.normalize}"
        return f"Backbone({self.name!r}, {self.kind}, {self.family}, D={self.hidden_size}, {query})"
