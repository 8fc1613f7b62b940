"""Backbone: a frozen Hugging Face model, its query features, and how its inputs are made."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpool.backbones import images, text
from cpool.backbones._call import CALL, Call, active
from cpool.backbones._inputs import Batch, check_length, picked, smallest
from cpool.backbones._states import States, compiled
from cpool.backbones._transform import TransformFingerprint
from cpool.backbones.families import Family, Kind, Site, find
from cpool.backbones.fingerprint import Fingerprint
from cpool.backbones.pooling import Pooling, check_layers, pool_layers
from cpool.errors import BackboneError, ConfigError, StateError

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """A Hugging Face model that never changes: no gradient, no dropout, one copy in memory.

    Made by `load_backbone` or `wrap_model`. `train()` leaves it in eval mode, and a deep copy of a
    module that holds it shares it.

    Args:
        model: the base model, without a head.
        family: how this kind of model is prompted.
        processor: image processor or tokenizer; None when inputs are prepared elsewhere.
        name: what people call it.
        pooling: "cls", "mean", or "auto": [CLS] for a vision model that has one, else the mean
            over the real tokens.
        normalize: divide each layer's feature by its L2 norm.
        layers: which hidden states the query reads: 0 the embeddings, i the output of block i,
            -1 (or L) the model's final state, after its last norm.
        language_model: what `model` is the base of, for readouts that score words and to generate.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        *,
        processor: Any = None,
        name: str = "",
        pooling: str = "auto",
        normalize: bool = False,
        layers: Sequence[int] = (-1,),
        language_model: Any = None,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        # A tuple hides it from the module tree, which has its parts already.
        self._language_model = (language_model,)
        self.lm_head: nn.Module | None = language_model and language_model.get_output_embeddings()
        self.name, self.kind_of, self.frozen = name, family, frozen
        self.kind: Kind = family.kind
        self.site: Site = family.site
        self.family: str = model.config.model_type
        self._read_sizes(model.config)
        self.pooling: Pooling = self._resolve(pooling)
        self.normalize, self.layers = normalize, check_layers(layers, self.num_layers)
        self._takes = frozenset(signature(model.forward).parameters)
        self._fingerprint, self._states = Fingerprint(model), States(model, self.num_layers)
        self._transform = TransformFingerprint()
        for parameter in self.parameters():
            parameter.requires_grad_(not frozen)
        self.train(not frozen)

    def _read_sizes(self, config: Any) -> None:
        self.hidden_size: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = getattr(config, "num_key_value_heads", None) or self.num_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        self.has_cls = self.kind_of.cls
        self.insert_at = 1 if self.has_cls else 0
        self.final_norm_path = self.kind_of.final_norm
        limit = None if self.kind == "vision" else getattr(config, "max_position_embeddings", None)
        embeddings = find(self.plain_model, "embeddings")
        offset = getattr(embeddings, "padding_idx", None)
        # RoBERTa's table starts at pad id + 1, so that many rows are never positions.
        self.position_limit: int | None = (
            limit if limit is None or offset is None else limit - offset - 1
        )

    def _resolve(self, pooling: str) -> Pooling:
        if pooling == "auto":
            return "cls" if self.kind == "vision" and self.has_cls else "mean"
        if pooling == "mean":
            return "mean"
        if pooling != "cls":
            raise ConfigError(
                expected='pooling "auto", "cls" or "mean"',
                got=repr(pooling),
                remedy="Choose one of the three.",
            )
        if not self.has_cls:
            raise ConfigError(
                expected=f'pooling "mean" for {self.family}, which has no [CLS] token',
                got='"cls"',
                remedy='Use pooling="mean" or "auto".',
            )
        return "cls"

    # ---- sizes and identity -------------------------------------------------------------------

    @property
    def plain_model(self) -> Any:
        """The model itself, also when `self.model` was wrapped by `torch.compile`."""
        return getattr(self.model, "_orig_mod", self.model)

    @property
    def language_model(self) -> Any:
        """The language model that the base model is part of.

        Raises:
            BackboneError: a model that is none, or that was loaded without its output embedding.
        """
        if self._language_model[0] is None:
            raise BackboneError(
                expected="a language model with its output embedding",
                got=f"{self.name!r} ({self.family}) without one",
                remedy="Load a causal language model, such as a checkpoint of LlamaForCausalLM.",
            )
        return self._language_model[0]

    @property
    def query_size(self) -> int:
        """Q, the width of a query: D times the number of layers read."""
        return self.hidden_size * len(self.layers)

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that fit, prompts included for the `inputs` site; None without limit."""
        declared = getattr(self.processor, "model_max_length", None)
        # Tokenizers without a limit of their own declare about 10³⁰.
        limits = [n for n in (self.position_limit, declared) if n and n < 10**9]
        return min(limits) if limits and self.kind != "vision" else None

    @property
    def _first(self) -> nn.Parameter:
        first: nn.Parameter = next(self.model.parameters())
        return first

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._first.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._first.dtype

    @property
    def fingerprint(self) -> str:
        """SHA-256 of config and weights; computed again when `Fingerprint` sees a change."""
        return self._fingerprint()

    @property
    def transform_fingerprint(self) -> str:
        """SHA-256 of what the processor does as it is now; "none" without a processor."""
        return self._transform(self.processor, self.kind)

    def spec(self) -> dict[str, Any]:
        """Return what results record: identity, query choice and sizes, all JSON."""
        tensors = list(self.model.parameters())
        return {
            "name": self.name,
            "kind": self.kind,
            "family": self.family,
            "fingerprint": self.fingerprint,
            "transform": self.transform_fingerprint,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "layers": list(self.layers),
            "hidden_size": self.hidden_size,
            "query_size": self.query_size,
            "parameters": sum(t.numel() for t in tensors),
            "dtype": str(self.dtype).removeprefix("torch."),
            "bytes": sum(t.numel() * t.element_size() for t in tensors),
        }

    # ---- frozen -------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode, whatever `mode` says, unless this is a trainable copy."""
        return super().train(mode and not self.frozen)

    def requires_grad_(self, requires_grad: bool = True) -> "Backbone":
        """Refuse to thaw a frozen backbone.

        Raises:
            StateError: `requires_grad` is True and this is no trainable copy.
        """
        if requires_grad and self.frozen:
            raise StateError(
                expected="a frozen backbone to stay frozen",
                got="requires_grad_(True)",
                remedy="Use `backbone.trainable_copy()` to train weights.",
            )
        return super().requires_grad_(requires_grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        # A frozen model is a constant: copies of what holds it share it.
        return self if self.frozen else self._copy(self._language_model[0])

    def trainable_copy(self, *, words: bool = False) -> "Backbone":
        """Return a copy with weights of its own that can be trained, and a real `train()`.

        Without `words` it has no `lm_head`: no feature depends on one, so that it would be stored
        and counted without ever being trained. Weights in half precision become float32, since
        small steps would be rounded away in them.
        """
        copied = self._copy(self.language_model if words else None)
        if copied.dtype in (torch.float16, torch.bfloat16):
            copied.float()
        return copied

    def _copy(self, language_model: Any) -> "Backbone":
        # Copied together, so that a head tied to the input embedding stays tied.
        model, language_model = copy.deepcopy((self.plain_model, language_model))
        return Backbone(
            model,
            self.kind_of,
            processor=self.processor,
            name=self.name,
            pooling=self.pooling,
            normalize=self.normalize,
            layers=self.layers,
            language_model=language_model,
            frozen=False,
        )

    # ---- inputs -------------------------------------------------------------------------------

    def prepare(
        self, inputs: Any, max_tokens: int | None = None, around: text.Around = ("", "")
    ) -> dict[str, Tensor]:
        """Turn raw images or texts into the tensors of a batch, on the CPU.

        Args:
            inputs: texts; or images, one array [n H W] or [n H W C] or a sequence of arrays, PIL
                images or paths; uint8, or float in [0, 1].
            max_tokens: cut texts to this many tokens, so that prompts fit too; never more than
                `self.max_tokens`. Cut texts give one warning that counts them.
            around: words before and after each text, which are never cut; or a function that
                gets the texts and returns such a pair for each.

        Raises:
            DataError: empty texts, images of a wrong shape or type, NaN or infinite values.
            BackboneError: the backbone has no processor.
        """
        if self.processor is None:
            raise BackboneError(
                expected="a processor (tokenizer or image processor)",
                got=f"none in backbone {self.name!r}",
                remedy="Give one to `wrap_model(model, processor)`, or pass tensors.",
            )
        if self.kind == "vision":
            channels = getattr(self.plain_model.config, "num_channels", 3)
            return {"pixel_values": images.prepare(inputs, self.processor, channels)}
        limits = [n for n in (max_tokens, self.max_tokens) if n is not None]
        return text.prepare(inputs, self.processor, min(limits, default=None), around)

    def smallest_batch(self) -> dict[str, Tensor]:
        """Return a batch of one black image or of two tokens, to try a model out."""
        return smallest(self.plain_model.config, self.kind)

    def model_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return the keys of `batch` that the model takes, on its device; labels stay behind.

        Raises:
            DataError: the main input is missing or has a wrong shape.
        """
        return picked(batch, self.kind, self._takes, self.device, self.dtype)

    def positions(self, mask: Int[Tensor, "B T"], offset: int = 0) -> dict[str, Tensor]:
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
        are put in; this is the one place where the model is called.
        """
        if CALL.get() is None:
            with active(Call()):
                return self.run(inputs, wanted)
        if self.frozen and self.plain_model.training:
            self.plain_model.eval()
        cache = {"use_cache": False} if self.kind == "causal" else {}
        with self._states.captured(wanted) as states, self._guards():
            final = self.model(**inputs, **cache).last_hidden_state
        if self.final_norm_path and (norm := find(self.plain_model, self.final_norm_path)):
            final = norm(final)
        states[self.num_layers] = final
        return states

    def _guards(self) -> AbstractContextManager[Any]:
        if not compiled(self.model):
            return nullcontext()
        # Compiled code does not look at hooks by default, and would silently drop the prompts.
        import torch._dynamo.config as dynamo

        return dynamo.patch(skip_nnmodule_hook_guards=False)  # type: ignore[no-any-return]

    @torch.no_grad()
    def cache_of(self, ids: Int[Tensor, " T"]) -> list[tuple[Tensor, Tensor]]:
        """Return the keys and values that a decoder keeps of some tokens, layer by layer.

        Args:
            ids: of the tokens, at positions from 0.

        Returns:
            For each layer keys, turned to their positions, and values: [1 heads T head_dim].
        """
        with active(Call()):
            made = self.model(input_ids=ids[None].to(self.device), use_cache=True)
        # transformers is giving the cache another name.
        cache = getattr(made, "cache", None) or made.past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

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
        chosen = self.pooling if pooling is None else self._resolve(pooling)
        norm = self.normalize if normalize is None else normalize
        layers = self.layers if layers is None else layers
        if not self.frozen:
            return pool_layers(*self.encode(batch, layers=layers), chosen, norm)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return pool_layers(*self.encode(batch, layers=layers), chosen, norm)

    @property
    def vocabulary_size(self) -> int:
        """V, the number of words that `word_logits` scores."""
        return int(self.language_model.get_output_embeddings().out_features)

    def word_logits(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Return the scores of the next word after final hidden states.

        Raises:
            BackboneError: a model without an output embedding.
        """
        head, config = self.language_model.get_output_embeddings(), self.plain_model.config
        logits: Tensor = head(hidden.to(head.weight.dtype))
        # Families scale the scores in the model class that has the head: Cohere, Granite, Gemma.
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)
        logits = logits / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if not cap else cap * torch.tanh(logits / cap)

    def query(self, batch: Batch) -> Float[Tensor, "B Q"]:
        """Return the features by which prompts are chosen, as `spec()` says; no gradient."""
        return self.features(batch)

    def __repr__(self) -> str:
        """Say what it is in one line; the model prints itself as `backbone.model`."""
        query = f"query={self.pooling!r}, layers={self.layers}, normalize={self.normalize}"
        return f"Backbone({self.name!r}, {self.kind}, {self.family}, D={self.hidden_size}, {query})"
