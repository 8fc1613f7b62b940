"""CpoolForCausalLM: words that follow a text, under learned prompts, trained on completions."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from cpool.backbones import Backbone
from cpool.errors import ConfigError, DataError
from cpool.inject import encode
from cpool.interop.transformers.config import CpoolConfig, described
from cpool.interop.transformers.model import Batches, CpoolModel
from cpool.language import LabelWords, readable
from cpool.model import PromptedModel
from cpool.readout import LabelReadout

__all__ = ["CpoolForCausalLM", "asked"]


class CpoolForCausalLM(CpoolModel, GenerationMixin):
    r"""A prompted language model that goes on with a text; one prompt a task of free text.

    Loss: `−mean_i log p(x_i | P, x_<i)` over positions with labels x_i ≠ −100, the completion
    (Lester et al., EMNLP 2021). Logits are [B T V], aligned with `input_ids`: positions of the
    prompt P are none of the answer, so labels need no shift beyond that of every causal model.

    A task is one of completions, without classes; to the parts below it is one class, named as the
    task. The query by which a prompt is chosen reads what is asked alone, in training and in
    evaluation, as at generation, where nothing else is known.
    """

    accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch when that is told

    @classmethod
    def of(cls, model: PromptedModel) -> Any:
        """Wrap a model of `PromptTuning` or `PrefixTuning`, new or trained here.

        Raises:
            ConfigError: another method.
        """
        fits = isinstance(model.readout, LabelReadout) and model.prompter and not model.rules
        if not fits or model.trunk is not None:
            raise ConfigError(
                expected="prompts before a language model, such as PromptTuning or PrefixTuning",
                got=repr(model.method or type(model).__name__),
                remedy="Build one of these on a decoder.",
            )
        sizes = model.backbone.plain_model.config
        made = cls(CpoolConfig(vocab_size=sizes.vocab_size, **described(model)), model)
        made._take_over()
        return made

    def __init__(self, config: CpoolConfig, prompted: PromptedModel | None = None) -> None:
        super().__init__(config, prompted)
        self._take_over()

    def _take_over(self) -> None:
        # When to stop and how to draw are the frozen model's own.
        self.generation_config = self.backbone.language_model.generation_config

    @property
    def _words(self) -> LabelWords:
        readout = self.prompted.readout
        assert isinstance(readout, LabelReadout)
        return readout.words

    def classes_of(self, task: str) -> list[int]:
        """Return the class that stands for a task: its number, called as the task.

        Raises:
            DataError: a name without words, or with those of an earlier task.
        """
        number, words = len(self.prompted.tasks), self._words
        named = words.names
        if named is None or len(named) <= number:
            words.more([task])
        try:
            words.expect([number])
        except DataError:
            words.names = named
            raise
        return [number]

    def runs(self, task: str) -> bool:
        """Return whether the last task begun has this name."""
        return self._words.of(self.prompted.tasks[-1]) == [readable(task)]

    def seen(self, batches: Batches, task: int) -> Batches:
        """Return what is asked in each batch, and the task as its class."""
        return _Asked(self.backbone, batches, task)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **ignored: Any,
    ) -> CausalLMOutput:
        """Answer a batch of texts with the scores of the next word after each of their tokens.

        Args:
            input_ids: [B T].
            attention_mask: [B T], padded on either side.
            labels: [B T], the ids of `input_ids` where a completion is learned and −100 elsewhere;
                adds the loss.
            num_items_in_batch: what the summed loss is divided by; its number of labels when None.
            **ignored: options of caching, such as use_cache.
        """
        batch = _batch(input_ids, attention_mask)
        task, model = self._told(), self.prompted
        model.check_task(task)
        real = batch["attention_mask"]
        known = {**batch, "attention_mask": real if labels is None else asked(real, labels)}
        query = model.query(known) if model.needs_query else None
        prompts = model.passes.choose(query, task, len(real))
        encoded = encode(self.backbone, batch, prompts)
        width = real.shape[1]
        logits = self.backbone.word_logits(encoded.hidden_states[-1][:, -width:])
        loss = None
        if labels is not None:
            size = self.backbone.vocabulary_size
            loss = self.loss_function(logits, labels, size, num_items_in_batch=num_items_in_batch)
            if prompts is not None:
                loss = loss + prompts.loss.to(loss.device)
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Int[Tensor, "N T"]:
        """Return the texts with the words that follow each, under the prompt chosen for it.

        Args:
            input_ids: [B T].
            attention_mask: [B T], padded on either side.
            **options: of `generate` of transformers, such as max_new_tokens=20.

        Raises:
            ConfigError: an answer in another form than ids is asked for.
        """
        config = options.get("generation_config")
        whole = options.get(
            "return_dict_in_generate", getattr(config, "return_dict_in_generate", 0)
        )
        if whole:
            raise ConfigError(
                expected="ids as the answer",
                got="return_dict_in_generate=True",
                remedy="Ask for logits by calling the model on what was generated.",
            )
        batch = _batch(input_ids, attention_mask)
        new = self.prompted.generate(batch, self.task, **options)
        given = batch["input_ids"].to(new.device)
        return torch.cat([given.repeat_interleave(len(new) // len(given), dim=0), new], dim=1)


class _Asked:
    """Batches of completions as the parts below read them: queries, and the task as the class."""

    def __init__(self, backbone: Backbone, batches: Batches, task: int) -> None:
        self.backbone, self.batches, self.task = backbone, batches, task

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self.batches:
            made = _batch(batch.get("input_ids"), batch.get("attention_mask"))
            if "labels" in batch:
                made["attention_mask"] = asked(made["attention_mask"], batch["labels"])
            query = self.backbone.query(made)
            yield {**made, "query": query, "labels": torch.full((len(query),), self.task)}


def _batch(input_ids: Tensor | None, attention_mask: Tensor | None) -> dict[str, Tensor]:
    if input_ids is None:
        raise DataError(
            expected="input_ids of shape [B T]",
            got="none",
            remedy="Tokenize the texts; embeddings cannot be given, since queries read tokens.",
        )
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return {"input_ids": input_ids, "attention_mask": mask}


def asked(mask: Int[Tensor, "B T"], labels: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return the mask of what stands before the first label: what is asked.

    All of a text where its first token is a label, or where none is.

    >>> mask, none = torch.tensor([[0, 1, 1, 1, 1]]), -100
    >>> asked(mask, torch.tensor([[none, none, none, 7, 8]]))
    tensor([[0, 1, 1, 0, 0]])
    >>> asked(mask, torch.tensor([[none, 5, 6, 7, 8]]))
    tensor([[0, 1, 1, 1, 1]])
    """
    before = mask * ((labels != -100).cumsum(1) == 0).to(mask)
    return torch.where(before.any(dim=1, keepdim=True), before, mask)
