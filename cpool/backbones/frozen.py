"""FrozenModel: a Hugging Face model that never changes, its sizes and who it is."""

import copy
from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import nn

from cpool.backbones._states import States
from cpool.backbones._transform import TransformFingerprint
from cpool.backbones.families import Family, Kind, Site, find
from cpool.backbones.fingerprint import Fingerprint
from cpool.backbones.pooling import Pooling, check_layers, resolve_pooling
from cpool.backbones.quantised import check_gradient, check_trains
from cpool.errors import BackboneError, StateError

__all__ = ["FrozenModel"]

M = TypeVar("M", bound="FrozenModel")


class FrozenModel(nn.Module):
    """A Hugging Face model that never changes: no gradient, no dropout, one copy in memory.

    `Backbone` is what to use: it makes inputs, runs the model and reads features.

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
        seq2seq = language_model is not None and family.kind == "seq2seq"
        self.decoder: nn.Module | None = language_model.get_decoder() if seq2seq else None
        self.name, self.kind_of, self.frozen = name, family, frozen
        self.kind: Kind = family.kind
        self.site: Site = family.site
        self.family: str = model.config.model_type
        self._read_sizes(model.config)
        self.pooling: Pooling = resolve_pooling(pooling, family, self.family)
        self.normalize, self.layers = normalize, check_layers(layers, self.num_layers)
        self._takes = frozenset(signature(model.forward).parameters)
        self._fingerprint, self._states = Fingerprint(model), States(model, self.num_layers)
        self._transform = TransformFingerprint()
        self._passes = False  # gradients, as far as was looked at
        for parameter in self.parameters():
            parameter.requires_grad_(not frozen)
        self.train(not frozen)

    def _read_sizes(self, config: Any) -> None:
        self.hidden_size: int = config.hidden_size
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = getattr(config, "num_key_value_heads", None) or self.num_heads
        self.head_dim: int = getattr(config, "head_dim", None) or self.hidden_size // self.num_heads
        # An encoder–decoder takes prefixes in its decoder, whose layers may be fewer or more.
        decoder = getattr(config, "num_decoder_layers", None) if self.kind == "seq2seq" else None
        self.prefix_layers: int = decoder or self.num_layers
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

    def __getattr__(self, name: str) -> Any:
        # A property that fails by an AttributeError of its own ends here, where torch would say
        # that there is no such property. Asked again, it raises what is wrong.
        own = getattr(type(self), name, None)
        if isinstance(own, property | cached_property):
            asked = own.fget if isinstance(own, property) else own.func
            assert asked is not None
            return asked(self)
        return super().__getattr__(name)

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
                remedy="Load a language model, such as a checkpoint of LlamaForCausalLM or "
                "T5ForConditionalGeneration.",
            )
        return self._language_model[0]

    @property
    def prefix_model(self) -> Any:
        """The part of the model whose attention takes prefixes: of a T5 its decoder.

        Raises:
            BackboneError: an encoder–decoder that was loaded without its decoder.
        """
        if self.kind != "seq2seq":
            return self.plain_model
        return self.language_model.get_decoder()

    @property
    def decoder_start(self) -> int:
        """The token with which the decoder of an encoder–decoder begins to answer.

        Raises:
            BackboneError: no language model, or one that names none.
        """
        model = self.language_model
        start = getattr(model.config, "decoder_start_token_id", None)
        if start is None:
            start = model.generation_config.decoder_start_token_id
        if start is None:
            raise BackboneError(
                expected="a decoder_start_token_id, with which an encoder–decoder begins to answer",
                got=f"none in the config of {self.name!r}",
                remedy="Set config.decoder_start_token_id; of T5 it is the pad token, 0.",
            )
        return int(start)

    @property
    def has_words(self) -> bool:
        """Whether this kind of model answers in words: a decoder, or an encoder–decoder."""
        return self.kind in ("causal", "seq2seq")

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
        tensors = list(nn.ModuleList([self.model, self.decoder or nn.Module()]).parameters())
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

    def train(self, mode: bool = True) -> "FrozenModel":
        """Stay in eval mode, whatever `mode` says, unless this is a trainable copy."""
        return super().train(mode and not self.frozen)

    def need_gradient(self) -> None:
        """Refuse what trains in front of layers that pass no gradient on.

        Raises:
            BackboneError: layers that torch quantised.
        """
        if not self._passes:
            check_gradient(self, self.name)
            self._passes = True

    def requires_grad_(self, requires_grad: bool = True) -> "FrozenModel":
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

    def __deepcopy__(self: M, memo: dict[int, Any]) -> M:
        # A frozen model is a constant: copies of what holds it share it.
        return self if self.frozen else self._copy(self._language_model[0])

    def trainable_copy(self: M, *, words: bool = False) -> M:
        """Return a copy with weights of its own that can be trained, and a real `train()`.

        Without `words` it has no `lm_head`: no feature depends on one, so that it would be stored
        and counted without ever being trained. Weights in half precision become float32, since
        small steps would be rounded away in them.

        Raises:
            BackboneError: quantised weights, which no gradient can change.
        """
        check_trains(self, self.name)
        copied = self._copy(self.language_model if words else None)
        if copied.dtype in (torch.float16, torch.bfloat16):
            copied.float()
        return copied

    def _copy(self: M, language_model: Any) -> M:
        # Copied together, so that a head tied to the input embedding stays tied.
        model, language_model = copy.deepcopy((self.plain_model, language_model))
        return type(self)(
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
