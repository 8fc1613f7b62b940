"""CpoolForCausalLM: words that follow a text, under learned prompts, trained on completions."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from cpool.by_kind import by_kind
from cpool.errors import ConfigError, DataError
from cpool.inject import encode
from cpool.inject.recompute import check_recomputes, recomputed
from cpool.inject.start import hidden_start, started
from cpool.interop.transformers.completions import Asked, asked, batch_of, completion_rows
from cpool.interop.transformers.config import CpoolConfig, described
from cpool.interop.transformers.model import Batches, CpoolModel
from cpool.interop.transformers.naming import class_named
from cpool.interop.transformers.wording import worded
from cpool.language import readable
from cpool.language.sharing import prompt_once
from cpool.model import PromptedModel
from cpool.model_checks import need_task
from cpool.prompter import Prompts
from cpool.readout import CompletionReadout, LabelReadout

__all__ = ["CpoolForCausalLM"]

# What trainers of others read in the config: sizes, and how scores are scaled after the embedding.
SIZES = (
    "final_logit_softcapping",
    "hidden_size",
    "logit_scale",
    "logits_scaling",
    "num_hidden_layers",
    "vocab_size",
)
HARMLESS = ("return_dict", "token_type_ids", "use_cache")


class CpoolForCausalLM(CpoolModel, GenerationMixin):
    r"""A prompted language model that goes on with a text; one prompt a task of free text.

    Loss: `−mean_i log p(x_i | P, x_<i)` over positions with labels x_i ≠ −100, the completion
    (Lester et al., EMNLP 2021). Logits are [B T V], aligned with `input_ids`: positions of the
    prompt P are none of the answer, so labels need no shift beyond that of every causal model.

    Where the tokenizer begins a text with a start token, prompts stand behind it. Then the first
    word of a row is no label, since what predicts it is the last of the prompt.

    A task is one of completions, without classes; to the parts below it is one class, named as the
    task. The query by which a prompt is chosen reads what is asked alone, in training and in
    evaluation, as at generation, where nothing else is known.
    """

    supports_gradient_checkpointing = True
    gradient_checkpointing = False
    _recompute: tuple[Any, int] | None = None  # how layers are run again, and one of how many
    accepts_loss_kwargs = True  # the loss is divided by num_items_in_batch when that is told

    @classmethod
    def of(cls, model: PromptedModel) -> Any:
        """Wrap a model of `PromptTuning` or `PrefixTuning` on a decoder, new or trained here.

        Raises:
            ConfigError: another method, or an encoder–decoder.
        """
        frozen = model.backbone.plain_model.config.to_dict()
        sizes = {key: frozen[key] for key in SIZES if frozen.get(key) is not None}
        return cls(CpoolConfig(**sizes, **described(model)), model)

    def __init__(self, config: CpoolConfig, prompted: PromptedModel | None = None) -> None:
        super().__init__(config, prompted)
        model, frozen = self.prompted, self.backbone
        speaks = isinstance(model.readout, LabelReadout | CompletionReadout)
        fits = speaks and model.prompter and not model.rules and model.trunk is None
        # The final states of an encoder have seen the answer that is to be learned.
        if not fits or frozen.kind != "causal":
            raise ConfigError(
                expected="prompts before a decoder, of a method such as PromptTuning or "
                "PrefixTuning",
                got=f"{getattr(model.method, 'name', type(model).__name__)} on {frozen.name!r} "
                f"({frozen.family}, {frozen.kind})",
                remedy="Build one of these on a decoder such as Llama or GPT-2; train others with "
                "cpool.Learner.",
            )
        # When to stop and how to draw are the frozen model's own, unless others are put here.
        self.generation_config = self.backbone.language_model.generation_config

    def begin_task(self, task: Any, batches: Batches = ()) -> int:
        """Begin a task as every model does, and take down its name."""
        number = super().begin_task(task, batches)
        names = self.config.task_names or {}
        self.config.task_names = {**names, str(number): readable(task)}
        return number

    def classes_of(self, task: Any) -> list[int]:
        """Return the class that stands for a task, the next number that is free.

        Raises:
            DataError: no name, one without words, or that of an earlier task.
        """
        return [class_named(self.prompted, self.config.task_names or {}, task)]

    def runs(self, task: Any) -> bool:
        """Return whether the last task begun has this name."""
        last = str(len(self.prompted.tasks) - 1)
        return isinstance(task, str) and (self.config.task_names or {}).get(last) == readable(task)

    def seen(self, batches: Batches, task: int) -> Batches:
        """Return what is asked in each batch, and the task as its class."""
        tasks = self.prompted.tasks
        # Before a task has begun its class is not there, and nobody reads labels yet.
        return Asked(self.backbone, batches, tasks[task][0] if task < len(tasks) else task)

    def rows(self, texts: Sequence[str], completions: Sequence[str]) -> list[dict[str, Tensor]]:
        """Return a data set for a Trainer: texts, what shall follow each, and the end of the text.

        The words of the method's template are put around each text, and a space before a completion
        that begins without one, unless there is white space already.

        Args:
            texts: what is asked.
            completions: what is answered.

        Raises:
            DataError: a row that does not fit beside the prompts, or one without a text or
                completion.
            BackboneError: a tokenizer without an end token.
        """
        return completion_rows(self, texts, completions)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        query: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **ignored: Any,
    ) -> CausalLMOutput:
        """Answer a batch of texts with the scores of the next word after each of their tokens.

        Args:
            input_ids: [B T], of rows as they are: `rows` puts the words of a template around texts.
            attention_mask: [B T], padded on either side.
            labels: [B T], the ids of `input_ids` where a completion is learned and −100 elsewhere;
                adds the loss.
            query: [B Q], by which prompts are chosen; computed from what is asked when None.
            num_items_in_batch: what the summed loss is divided by; its number of labels when None.
            **ignored: options that change no answer, such as use_cache.

        Raises:
            DataError: options that would, such as the position_ids of packed texts.
        """
        batch = batch_of(input_ids, attention_mask)
        if query is None and labels is not None and self.prompted.needs_query:
            known = asked(batch["attention_mask"], labels)
            query = self.backbone.query({**batch, "attention_mask": known})
        states, penalty = self._states(batch, query, ignored)
        logits = self.backbone.word_logits(states)
        loss = None
        if labels is not None:
            labels = self._predicted(batch, labels)
            size, number = self.backbone.vocabulary_size, num_items_in_batch
            loss = self.loss_function(logits, labels, size, num_items_in_batch=number) + penalty
        return CausalLMOutput(loss=loss, logits=logits)

    @property
    def base_model(self) -> Any:
        """The prompted model without its output embedding; `SFTTrainer` scores words itself.

        It makes the rows itself, too, so a method that puts words around a text is refused there.
        """
        return self._base

    def _base(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        query: Tensor | None = None,
        **ignored: Any,
    ) -> BaseModelOutput:
        if self.prompted.passes.around != ("", ""):
            raise ConfigError(
                expected="a method without words around a text, since others make the rows",
                got=f"{self.prompted.passes.surround}",
                remedy='Build it with template="{{ text }}" and without chat, and put the words '
                "into the data, or use the Trainer of transformers and `rows`.",
            )
        states, _ = self._states(batch_of(input_ids, attention_mask), query, ignored)
        return BaseModelOutput(last_hidden_state=states)

    def _states(
        self, batch: dict[str, Tensor], query: Tensor | None, options: Mapping[str, Any]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        """Return the final states at the text's own positions, and the loss of the policies."""
        wrong = [key for key, value in options.items() if value is not None and key not in HARMLESS]
        if wrong:
            raise DataError(
                expected="rows of one text each: input_ids, attention_mask and labels",
                got=", ".join(sorted(wrong)),
                remedy="Train without packing and padding_free: each text has a prompt of its own.",
            )
        if self.training and torch.is_grad_enabled():
            self.backbone.need_gradient()
        task, model, ids = self.task_of_step(), self.prompted, batch["input_ids"]
        model.check_task(task)
        if query is None and model.needs_query:
            query = self.backbone.query(batch)
        prompts = model.passes.choose(query, task, len(ids))

        def run(rows: Mapping[str, Tensor], own: Prompts | None) -> Tensor:
            rows, own = started(self.backbone, rows, own)
            own = prompt_once(self.backbone, own, len(rows["input_ids"]))
            with self._kept():
                made = encode(self.backbone, rows, own)
            return made.hidden_states[-1][:, -ids.shape[1] :].flatten(1)

        states = by_kind(self.backbone, batch, prompts, run).view(*ids.shape, -1)
        if (hidden := self._hidden(batch)) is not None:
            # The prompts, not the start token's own place, are what is in front of the first word.
            states = torch.where(hidden[..., None].to(states.device), states.detach(), states)
        penalty = torch.zeros(()) if prompts is None else prompts.loss
        return states, penalty.to(states.device)

    def _hidden(self, batch: Mapping[str, Tensor]) -> Bool[Tensor, "B T"] | None:
        """Return where the start tokens are that prompts stand behind; None where none do."""
        prompter = self.prompted.prompter
        behind = prompter is not None and any(branch.site.after_start for branch in prompter)
        return hidden_start(self.backbone, batch) if behind else None

    def _predicted(self, batch: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Return the labels without those that no state of the text's own predicts."""
        hidden = self._hidden(batch)
        if hidden is None:
            return labels
        return labels.masked_fill(hidden.roll(1, dims=1).to(labels.device), -100)

    # ---- memory -------------------------------------------------------------------------------

    def _kept(self) -> AbstractContextManager[None]:
        """Return the context of a pass, which says what its layers keep for the backward pass."""
        if self._recompute is None or not self.training:
            return nullcontext()
        return recomputed(self.backbone, *self._recompute)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Any = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """Run layers of the frozen model again in the backward pass, or no longer.

        `activation_checkpointing_enable` of transformers calls it, as a Trainer does with
        activation_checkpointing=True.

        Raises:
            ConfigError: use_reentrant=True.
            BackboneError: a model whose layers cannot be run again.
        """
        self.gradient_checkpointing, self._recompute = False, None
        if not enable:
            return
        options = getattr(gradient_checkpointing_func, "keywords", {})
        if options.get("use_reentrant"):
            raise ConfigError(
                expected="use_reentrant=False, with which gradients reach prompts in every layer",
                got="use_reentrant=True",
                remedy="Leave it out of activation_checkpointing_kwargs.",
            )
        check_recomputes(self.backbone)
        again = partial(gradient_checkpointing_func, use_reentrant=False)
        self.gradient_checkpointing, self._recompute = True, (again, every_n_layers)

    def enable_input_require_grads(self) -> None:
        """Leave the frozen embedding as it is: the prompts bring the gradient."""

    # ---- words --------------------------------------------------------------------------------

    def get_output_embeddings(self) -> Any:
        """Return the frozen output embedding."""
        return self.backbone.language_model.get_output_embeddings()

    def get_input_embeddings(self) -> Any:
        """Return the frozen token embedding."""
        return self.backbone.plain_model.get_input_embeddings()

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Int[Tensor, "N T"]:
        """Return the texts with the words that follow each, under the prompt chosen for it.

        They follow what `prompted.prepare` makes of the same texts: the words of the method's
        template are put around each, so the ids here are those of the texts alone, and what is
        returned begins with them. Texts that leave no room for max_new_tokens are cut there, with
        one warning that counts them. Rows that have the words already are for
        `prompted.generate(batch)`.

        Args:
            input_ids: [B T], of texts.
            attention_mask: [B T], padded on either side.
            **options: of `generate` of transformers, such as max_new_tokens=20.

        Raises:
            ConfigError: an answer in another form than ids is asked for, or more new words than
                there are positions.
            DataError: rows that are no texts, such as those of a chat, where words are put around
                texts or texts are cut.
        """
        config, frozen = options.get("generation_config"), self.backbone.language_model
        own = self.generation_config
        if config is None and own is not frozen.generation_config:
            options = {**own.to_diff_dict(), **options}
            options.pop("transformers_version", None)
        whole = options.get(
            "return_dict_in_generate", getattr(config, "return_dict_in_generate", 0)
        )
        if whole:
            raise ConfigError(
                expected="ids as the answer",
                got="return_dict_in_generate=True",
                remedy="Ask for logits by calling the model on what was generated.",
            )
        need_task(bool(self.prompted.tasks))
        batch = batch_of(input_ids, attention_mask)
        room = options.get("max_new_tokens") or (config or own).max_new_tokens or 0
        new = self.prompted.generate(worded(self.prompted, batch, room), self.told, **options)
        given = batch["input_ids"].to(new.device)
        return torch.cat([given.repeat_interleave(len(new) // len(given), dim=0), new], dim=1)
