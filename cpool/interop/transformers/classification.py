"""CpoolForSequenceClassification and CpoolForImageClassification: classes in a Trainer."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from cpool.demands import check_trainable
from cpool.errors import ConfigError, DataError
from cpool.interop.transformers.config import CpoolConfig, described
from cpool.interop.transformers.model import CpoolModel
from cpool.interop.transformers.tokens import ModelTokenizer
from cpool.model import PromptedModel
from cpool.output import Output
from cpool.settings import TrainSettings

__all__ = ["CpoolForImageClassification", "CpoolForSequenceClassification"]


class Classifier(CpoolModel):
    """What classifiers of texts and of images share.

    Logits are [B C] with a column for every class of `config.id2label`, in the order of the class
    numbers: −inf for those that no task has brought yet, so that argmax is a class number.
    """

    accepts_loss_kwargs = False  # the loss is a mean over the batch; the Trainer divides it

    def __init__(self, config: CpoolConfig, prompted: PromptedModel | None = None) -> None:
        super().__init__(config, prompted)
        read = "Image" if self.backbone.kind == "vision" else "Sequence"
        if read not in type(self).__name__:
            raise ConfigError(
                expected=f"CpoolFor{read}Classification for {self.backbone.name!r}",
                got=type(self).__name__,
                remedy="Use that class.",
            )

    @classmethod
    def of(cls, model: PromptedModel, labels: Sequence[str]) -> Any:
        """Wrap a prompted model, new or trained.

        Args:
            model: from `method.build(backbone)`, or the `model` of a learner.
            labels: what class number i is called, also those of tasks to come.

        Raises:
            DataError: fewer than two labels, one twice, or a class of the model without one.
        """
        names = [str(label) for label in labels]
        needed = max(model.classes, default=0) + 1
        if len(names) < max(2, needed) or len(set(names)) < len(names):
            raise DataError(
                expected=f"names of at least {max(2, needed)} classes, each another",
                got=repr(names)[:200],
                remedy="Name all classes in the order of their numbers, also of tasks to come.",
            )
        model.name_classes(names)
        numbers = {name: i for i, name in enumerate(names)}
        named: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": numbers}
        return cls(CpoolConfig(**named, **described(model)), model)

    @property
    def width(self) -> int:
        """C, the number of classes that have names."""
        return int(self.config.num_labels or 0)

    def classes_of(self, task: Sequence[int]) -> list[int]:
        """Return the class numbers of a task, all of which have names."""
        prompted = self.prompted
        settings = TrainSettings(mask=prompted.mask, anchor=prompted.anchor)
        number = len(prompted.tasks)
        check_trainable(prompted, settings, task, f"task {number}", number)
        wrong = [c for c in task if not 0 <= c < self.width]
        if wrong:
            raise DataError(
                expected=f"classes from 0 to {self.width - 1}, those that have names",
                got=str(wrong),
                remedy="Name them all in labels=[…] when the model is wrapped.",
            )
        return list(task)

    def runs(self, task: Sequence[int]) -> bool:
        """Return whether the last task begun has these classes."""
        return sorted({*task}) == [*self.prompted.tasks[-1]]

    def rows(self, inputs: Any, labels: Any = None) -> list[dict[str, Tensor]]:
        """Return a data set for a Trainer: one row an input, all padded to one length.

        Words around a text, room for prompts and the queries by which prompts are chosen are in it,
        so no tokenizer and no collator is needed.

        Args:
            inputs: texts or images, as for `Backbone.prepare`.
            labels: the class number of each, a list or an array.
        """
        prompted = self.prompted
        batch = self.backbone.prepare(inputs, prompted.max_tokens(), prompted.passes.around)
        number = len(next(iter(batch.values())))
        if self.wants_queries:
            batch["query"] = self.queries(inputs)
        if labels is not None:
            batch["labels"] = torch.as_tensor(labels, dtype=torch.int64)
            if len(batch["labels"]) != number:
                raise DataError(
                    expected=f"a label for each of {number} inputs",
                    got=f"{len(batch['labels'])}",
                    remedy="Give the class number of each input.",
                )
        return [{key: value[i] for key, value in batch.items()} for i in range(number)]

    def _answer(self, batch: dict[str, Tensor | None]) -> tuple[Output, Float[Tensor, "B C"]]:
        task = self.task_of_step()
        given = {key: value for key, value in batch.items() if value is not None}
        if self.training and "labels" not in given:
            raise DataError(
                expected="labels, since the loss is the method's own",
                got=f"keys {sorted(given)} in training",
                remedy="Leave out label_smoothing_factor and compute_loss_func, which take them.",
            )
        output: Output = self.prompted(given, task=task)
        columns = torch.tensor(self.prompted.classes, device=output.logits.device)
        shape = len(output.logits), self.width
        empty = output.logits.new_full(shape, -torch.inf)
        return output, empty.index_copy(1, columns, output.logits)


class CpoolForSequenceClassification(Classifier):
    """A prompted model that classifies texts.

    A method that puts words around a text (its template) wants them in `input_ids`: `rows` and
    `tokenizer` put them there, the tokenizer of the frozen model does not.
    """

    @property
    def tokenizer(self) -> ModelTokenizer:
        """What makes a text into what this model reads; for a pipeline, above all."""
        return ModelTokenizer(self.prompted)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        query: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Answer a batch of texts.

        Args:
            input_ids: [B T].
            attention_mask: [B T], padded on either side.
            token_type_ids: [B T], where the frozen model takes them.
            query: [B Q], by which prompts are chosen; computed from the texts when None.
            labels: class numbers [B]; adds the loss.
        """
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "query": query}
        more = {"token_type_ids": token_type_ids, "labels": labels}
        output, logits = self._answer({**batch, **more})
        return SequenceClassifierOutput(loss=output.loss, logits=logits)


class CpoolForImageClassification(Classifier):
    """A prompted model that classifies images."""

    main_input_name = "pixel_values"
    input_modalities = "image"

    def forward(
        self,
        pixel_values: Tensor | None = None,
        query: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> ImageClassifierOutput:
        """Answer a batch of images.

        Args:
            pixel_values: [B C H W].
            query: [B Q], by which prompts are chosen; computed from the images when None.
            labels: class numbers [B]; adds the loss.
        """
        output, logits = self._answer(
            {"pixel_values": pixel_values, "query": query, "labels": labels}
        )
        return ImageClassifierOutput(loss=output.loss, logits=logits)
