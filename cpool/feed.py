"""Feed: from examples to the batches that a model reads, with what was computed before."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from cpool.cache import QueryCache
from cpool.data import PreparedCache, by_length, make_loader
from cpool.model import PromptedModel
from cpool.streams import Examples

__all__ = ["Feed", "reads_inputs"]


def reads_inputs(model: PromptedModel, kept: Collection[str]) -> bool:
    """Return whether batches need the inputs, where the features of passes `kept` are at hand."""
    return model.needs_inputs and not (kept and len(kept) == len(model.passes.names))


class Feed:
    """Makes loaders for one model: queries, kept features of its passes, or the inputs.

    Args:
        model: what reads the batches.
        batch_size: samples a batch.
        cache: query features, which several feeds may share.
        prepared: prepared images, likewise.

    Attributes:
        passes: features of prompted passes that change no more.
    """

    def __init__(
        self,
        model: PromptedModel,
        batch_size: int,
        cache: QueryCache | None = None,
        prepared: PreparedCache | None = None,
    ) -> None:
        self.model, self.batch_size = model, batch_size
        self.cache = cache if cache is not None else QueryCache()
        self.prepared = prepared if prepared is not None else PreparedCache()
        self.passes = QueryCache()
        self._keys: set[str] = set()

    def refresh(self) -> None:
        """Drop kept features that no pass can use any more, after a task has changed the model."""
        keys = set(self.model.fixed(None).values())
        # One pass a slot adds keys and keeps the old ones; else another key is another pass.
        if not self._keys <= keys:
            self.passes.clear()
        self._keys = keys

    def queries(
        self, examples: Examples, *, cached: bool = True, prepared: PreparedCache | None = None
    ) -> Float[Tensor, "n Q"]:
        """Return the query features of all examples, each computed once (or anew).

        They are read from whole texts, also where the prompted pass has to cut a text to leave
        room for its prompts: a query is the same in training and at test.

        Args:
            examples: n samples.
            cached: read and keep them in the cache.
            prepared: prepared images; the learner's own when `cached`, else none.
        """
        backbone = self.model.backbone
        prepared = self.prepared if cached and prepared is None else prepared

        def compute(positions: np.ndarray) -> Tensor:
            # A completion would take room from the text, and at test nobody knows it.
            part = replace(examples.take(positions), completions=None)
            order = by_length(part)
            loader = make_loader(part.take(order), backbone, 128, prepared=prepared)
            rows = [backbone.query(batch).float().cpu() for batch in loader]
            return torch.cat(rows)[np.argsort(order)]

        spread = self.model.passes.processes.spread(compute)
        if not cached:
            return spread(np.arange(len(examples)))
        return self.cache.lookup(backbone, examples.source, examples.ids, spread)

    def loader(
        self,
        examples: Examples,
        *,
        task: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        cached: bool = True,
        training: bool = False,
        fixed: bool = True,
        whole: bool = False,
    ) -> DataLoader[Any]:
        """Return batches with what the model reads: kept features, queries, or the inputs.

        Args:
            examples: a split of a task.
            task: the task that the policies are told.
            shuffle: a new order each pass, from `seed`.
            seed: of the order.
            cached: use features computed, and images prepared, before.
            training: for steps of optimisation.
            fixed: take kept features of passes that train no more.
            whole: add the queries also where only a boundary reads them.
        """
        model = self.model
        extra: dict[str, Tensor] = {}
        wanted = model.fixed(task) if cached and fixed else {}
        if training and (model.passes.apart or any(r.needs_inputs for r in model.rules)):
            wanted = {}
        for name, key in wanted.items():
            extra[name] = self._kept(examples, name, key, task)
        # What is timed prepares each image, and once for all of its passes, as for one new sample.
        prepared = self.prepared if cached else PreparedCache()
        if model.needs_query or (whole and model.prompter and model.prompter.needs_boundary):
            extra["query"] = self.queries(examples, cached=cached, prepared=prepared)
        return make_loader(
            examples,
            model.backbone,
            self.batch_size,
            shuffle=shuffle,
            seed=seed,
            extra=extra,
            inputs=reads_inputs(model, wanted) or not extra,
            prepared=prepared,
            max_tokens=self.model.max_tokens(),
            around=model.passes.around,
        )

    def _kept(
        self, examples: Examples, name: str, key: str, task: int | None
    ) -> Float[Tensor, "n F"]:
        """Return the features of a pass that changes no more, each computed once."""
        model = self.model

        def compute(positions: np.ndarray) -> Tensor:
            part = examples.take(positions)
            order = by_length(part)
            part = part.take(order)
            query = self.queries(part) if model.needs_query else None
            loader = make_loader(
                part,
                model.backbone,
                # Labels make rows longer, and a mask of their own for each.
                self.batch_size if model.passes.room else 128,
                extra={} if query is None else {"query": query},
                prepared=self.prepared,
                max_tokens=self.model.max_tokens(),
                around=model.passes.around,
            )
            rows = [model.one_pass(batch, name, task).float().cpu() for batch in loader]
            return torch.cat(rows)[np.argsort(order)]

        training, width = model.training, model.passes.size
        model.eval()
        with torch.no_grad():
            kept = self.passes.lookup(
                model.backbone, examples.source, examples.ids, compute, f"pass {key}", width
            )
        model.train(training)
        return kept
