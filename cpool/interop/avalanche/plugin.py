"""PromptPoolPlugin: the phases of a prompted model, in the loop of a strategy of Avalanche."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.training.plugins import LRSchedulerPlugin, SupervisedPlugin
from avalanche.training.utils import _at_task_boundary
from torch import Tensor
from torch.utils.data import DataLoader

from cpool.data import GroupedBatches
from cpool.errors import ConfigError, DataError, StateError
from cpool.feed import reads_inputs
from cpool.heads import anchored
from cpool.interop.avalanche.inputs import check_rows, raw_inputs
from cpool.interop.avalanche.model import AvalancheModel, Step, ToldAvalancheModel
from cpool.seeding import derive, split_rows

__all__ = ["PromptPoolPlugin"]


class Competing:
    """A criterion over the classes that compete in training.

    Those of the task, as the method wants it; all seen so far where a batch holds samples of other
    tasks (replay, cumulative training), or where the method lets them compete.
    """

    def __init__(self, criterion: Any, model: AvalancheModel) -> None:
        self.criterion, self.model = criterion, model

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        prompted = self.model.prompted
        if prompted.training:
            competing = torch.tensor(prompted.classes, device=y.device)
            mine = torch.tensor(prompted.tasks[-1], device=y.device)
            if prompted.mask == "task" and bool(torch.isin(y, mine).all()):
                competing = mine
            if getattr(self.criterion, "weight", None) is None:
                # Left out, not set to −inf: label smoothing would make that an infinite loss.
                place = torch.zeros(logits.shape[1], dtype=torch.int64, device=y.device)
                place[competing] = torch.arange(len(competing), device=y.device)
                logits, y = anchored(logits[:, competing], prompted.anchor), place[y]
            elif prompted.anchor:
                raise ConfigError(
                    expected="a criterion without weights of classes beside train.anchor",
                    got=f"{type(self.criterion).__name__} with weights",
                    remedy="Leave one of the two out.",
                )
            else:
                away = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
                away[competing] = False
                logits = logits.masked_fill(away, -torch.inf)
        loss: Tensor = self.criterion(logits, y)
        return loss


class PromptPoolPlugin(SupervisedPlugin):  # type: ignore[misc]  # untyped base
    """Begin a task before each experience, add the method's losses, end the task after it.

    The strategy's model is an `AvalancheModel`; its optimiser, criterion, data loaders and other
    plugins stay the strategy's own. Growth happens before Avalanche looks for new parameters, so
    that they reach the optimiser; frozen ones have no gradient and are not listed any more, so that
    no momentum, decay or penalty moves them. A method that trains nothing in a task has no epochs.
    Where the parts of a method have rates of their own, these are factors of the strategy's.

    Args:
        seed: draws what grows, and what rules draw, as in `cpool.Learner` with this seed; not the
            order of samples, which is Avalanche's.

    Raises:
        ConfigError: in the first experience: a model that is none, an optimiser of other
            parameters or with several groups, or a plugin before this one.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self._held: Any = None
        self._fit: Any = None

    # ---- the phases of training, in the order of their calls ----------------------------------

    def before_training(self, strategy: Any, **_: Any) -> None:
        """Check model and optimiser, and let only those classes compete that shall."""
        model = _model_of(strategy)
        _check_apart(model, strategy.optimizer)
        mine = {id(p) for p in model.parameters()}
        ours = any(id(p) in mine for g in strategy.optimizer.param_groups for p in g["params"])
        first = next(p for p in strategy.plugins if isinstance(p, SupervisedPlugin))
        if first is not self:
            raise ConfigError(
                expected="PromptPoolPlugin as the first of the strategy's plugins",
                got=f"{type(first).__name__} before it",
                remedy="Others copy or penalise the model when a task has ended: put it in front.",
            )
        if len(strategy.optimizer.param_groups) > 1:
            raise ConfigError(
                expected="an optimiser with one group, in which what grows finds a place",
                got=f"{len(strategy.optimizer.param_groups)} groups",
                remedy="Make it of model.parameters(); rates of a method's parts multiply its own.",
            )
        scheduled = any(isinstance(p, LRSchedulerPlugin) for p in strategy.plugins)
        if model.prompted.rates and scheduled:
            raise ConfigError(
                expected=f"no scheduler beside the parts' own rates, {model.prompted.rates}",
                got="LRSchedulerPlugin",
                remedy="Use PromptStrategy, whose schedule knows them, or leave it out.",
            )
        if not ours and strategy.clock.train_exp_counter == 0:
            raise ConfigError(
                expected="an optimiser made from the parameters of the strategy's model",
                got="one of other parameters",
                remedy="Make it with model.parameters() of this AvalancheModel.",
            )
        if not isinstance(strategy._criterion, Competing):
            strategy._criterion = Competing(strategy._criterion, model)

    def before_train_dataset_adaptation(self, strategy: Any, **_: Any) -> None:
        """Begin the task: freeze what is old, grow what is new."""
        if not _at_task_boundary(strategy.experience, before=True):
            return
        online = isinstance(strategy.experience, OnlineCLExperience)
        if online and not strategy.experience.access_task_boundaries:
            raise ConfigError(
                expected="an online stream that tells where a task begins",
                got="access_task_boundaries=False",
                remedy="Split it with access_task_boundaries=True, or use "
                "cpool.task_free.TaskFreeLearner.",
            )
        model, data = _model_of(strategy), _data_of(strategy)
        prompted = model.prompted
        check_rows(data)
        number, classes = len(prompted.tasks), _classes_of(strategy, data)
        if online and prompted.judges:
            raise ConfigError(
                expected="whole tasks, of which the method keeps a part to judge on",
                got="an online stream",
                remedy="Train whole experiences, or choose a method without such a judgement.",
            )
        told = isinstance(model, ToldAvalancheModel)
        labels = _labels_of(strategy.experience, data) if told else []
        if isinstance(model, ToldAvalancheModel):
            model.check_labels(labels, number)
        model.draws.start(self.seed, "task", number)
        with model.draws():
            prompted.begin_task(classes, batches=_Later(self, strategy, data, number))
            fit, self._held = self._split(data, prompted.held_out, number)
            self._fit = fit
            model.to(strategy.device)
            if prompted.needs_raw:
                x, y = _whole(fit)
                prompted.study(raw_inputs(x), y.numpy().astype(np.int64))
        model.running = True
        model.width = max(model.width, max(classes) + 1)
        _widen(model, strategy)
        if isinstance(model, ToldAvalancheModel):
            model.tell(labels, number)

    def after_train_dataset_adaptation(self, strategy: Any, **_: Any) -> None:
        """Keep from training what the method judges the result on."""
        known, found = (
            _model_of(strategy).prompted.classes,
            strategy.adapted_dataset.targets.uniques,
        )
        strange = sorted({int(c) for c in found} - {*known})
        if strange:
            raise ConfigError(
                expected="a strategy that goes on with its model",
                got=f"training data of the classes {strange[:5]}, which this model has never met",
                remedy="GDumb and its like start anew each time, which a growing pool cannot; use "
                "Cumulative or Replay.",
            )
        if self._held is None:
            return
        if len(strategy.adapted_dataset) != len(self._fit) + len(self._held):
            raise ConfigError(
                expected="a strategy that trains on the experience's data alone",
                got=f"{len(strategy.adapted_dataset)} samples",
                remedy="This method keeps some of a task's samples to judge on: use Naive.",
            )
        strategy.adapted_dataset = self._fit.train()

    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        """Let the parts of the model have their rates, in groups that last for the experience."""
        prompted = _model_of(strategy).prompted
        rates = prompted.rates
        if not rates:
            return
        (group,) = strategy.optimizer.param_groups
        factors = {id(p): rates.get(n.split(".")[0], 1.0) for n, p in prompted.named_parameters()}
        for factor in sorted({*factors.values()} - {1.0}):
            own = [p for p in group["params"] if factors.get(id(p), 1.0) == factor]
            rest = {k: v for k, v in group.items() if k != "params"}
            group["params"] = [p for p in group["params"] if factors.get(id(p), 1.0) != factor]
            strategy.optimizer.add_param_group({**rest, "params": own, "lr": factor * rest["lr"]})

    def before_training_epoch(self, strategy: Any, **_: Any) -> None:
        """Leave out the epochs of a task in which nothing trains."""
        if next(_model_of(strategy).prompted.parameters(), None) is None:
            strategy.stop_training()

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Add the losses of policies and rules."""
        model = _model_of(strategy)
        if not torch.isfinite(strategy.loss).all():
            raise DataError(
                expected="a finite loss",
                got=f"{float(strategy.loss.detach())}",
                remedy="Lower the rate. A method with a head for each task cannot learn replayed "
                "classes: use it with Naive.",
            )
        if model.step.logits is not strategy.mb_output:
            raise ConfigError(
                expected="a strategy that runs its model once a step, and keeps what it answers",
                got=f"{type(strategy).__name__}, whose output is of another pass",
                remedy="Use Naive or another strategy of the table in the docs.",
            )
        loss = strategy._criterion(strategy.mb_output, strategy.mb_y)
        with model.draws():
            extra = model.extra_loss(strategy.mb_y, loss)
        if extra is not None:
            strategy.loss = strategy.loss + extra

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """End the task on its own data: keys, closed-form heads, memories."""
        first, *others = strategy.optimizer.param_groups
        if _model_of(strategy).prompted.rates and others:
            # One group again, where Avalanche finds a place for what the next task grows.
            first["params"] += [p for group in others for p in group["params"]]
            del strategy.optimizer.param_groups[1:]
        if not _at_task_boundary(strategy.experience, before=False):
            return
        model, data = _model_of(strategy), _data_of(strategy)
        prompted = model.prompted
        index = len(prompted.tasks) - 1
        if self._held is not None:
            trained, held = (_Rows(strategy, model, part) for part in (self._fit, self._held))
            with model.draws():
                prompted.judge(trained, held)
        self._held = self._fit = None
        rows = _Rows(strategy, model, data, derive(self.seed, "end", index), index)
        with model.draws():
            prompted.end_task(rows if prompted.needs_end else ())
        model.step, model.running = Step(), False

    def after_training(self, strategy: Any, **_: Any) -> None:
        """Give the strategy its own criterion back."""
        if isinstance(strategy._criterion, Competing):
            strategy._criterion = strategy._criterion.criterion

    def before_eval_exp(self, strategy: Any, **_: Any) -> None:
        """Make room for the classes of tasks to come; their logits are −inf."""
        check_rows(strategy.experience.dataset)
        model = _model_of(strategy)
        model.width = max(model.width, max(strategy.experience.dataset.targets.uniques) + 1)
        _widen(model, strategy)

    def _split(self, data: Any, share: float, index: int) -> tuple[Any, Any]:
        if not share:
            return data, None
        parts = split_rows(len(data), share, self.seed, index)
        fit, held = (data.subset(part.tolist()) for part in parts)
        return fit, held


class _Rows:
    """Batches of a data set for a prompted model, made anew each time they are read.

    With a seed in the order of `cpool.Learner`, which sorts texts by length where it reads them.
    """

    def __init__(
        self,
        strategy: Any,
        model: AvalancheModel,
        data: Any,
        seed: int | None = None,
        task: int | None = None,
    ) -> None:
        self.size, self.model, self.data = strategy.train_mb_size, model, data
        self.seed = seed  # of the order; as it is when None
        prompted = model.prompted
        kept = {} if task is None else prompted.fixed(task)
        self.by_length = prompted.backbone.kind != "vision" and reads_inputs(prompted, kept)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A generator of its own also keeps a loader from drawing among the task's numbers.
        generator = torch.Generator().manual_seed(self.seed or 0)
        options: dict[str, Any] = {"batch_size": self.size, "generator": generator}
        if self.seed is not None:
            options["shuffle"] = True
        if self.seed is not None and self.by_length:
            texts = raw_inputs(_whole(self.data)[0])
            sampler = GroupedBatches(np.array([len(t) for t in texts]), self.size, generator)
            options = {"batch_sampler": sampler, "generator": torch.Generator()}
        for x, y, *_ in DataLoader(self.data, **options):
            yield self.model.batch(x, y)


class _Later:
    """A task's training data at its start, made when it is read; without what is held out."""

    def __init__(self, plugin: PromptPoolPlugin, strategy: Any, data: Any, number: int) -> None:
        self.plugin, self.strategy, self.data, self.number = plugin, strategy, data, number

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        model = _model_of(self.strategy)
        fit, _ = self.plugin._split(self.data, model.prompted.held_out, self.number)
        seed = derive(self.plugin.seed, "start", self.number)
        yield from _Rows(self.strategy, model, fit, seed)


def _model_of(strategy: Any) -> AvalancheModel:
    model = strategy.model
    if not isinstance(model, AvalancheModel):
        raise ConfigError(
            expected="an AvalancheModel as the strategy's model",
            got=type(model).__name__,
            remedy="Wrap the prompted model itself: AvalancheModel(method.build(backbone)).",
        )
    return model


def _data_of(strategy: Any) -> Any:
    """Return the data of the task that the experience is of, without what plugins replay."""
    experience = strategy.experience
    joint = getattr(strategy, "_experiences", None)
    if joint:  # JointTraining
        from avalanche.benchmarks.utils import concat_datasets

        return concat_datasets([one.dataset for one in joint])
    if getattr(experience, "access_task_boundaries", False):
        return experience.origin_experience.dataset
    return experience.dataset


def _classes_of(strategy: Any, data: Any) -> list[int]:
    if not hasattr(data, "targets"):
        raise DataError(
            expected="a data set with targets",
            got=type(data).__name__,
            remedy="Make it with as_classification_dataset of avalanche.benchmarks.utils.",
        )
    return sorted(int(c) for c in data.targets.uniques)


def _labels_of(experience: Any, data: Any) -> list[int]:
    origin = getattr(experience, "origin_experience", experience)
    labels = getattr(data, "targets_task_labels", None)
    if labels is None or not hasattr(origin, "task_labels"):
        raise DataError(
            expected="a benchmark with task labels",
            got="none",
            remedy="Use AvalancheModel, which infers the task, or task_incremental_benchmark.",
        )
    return sorted(int(t) for t in labels.uniques)


def _widen(model: AvalancheModel, strategy: Any) -> None:
    """Make a column for each class that the criterion weighs, also of those to come."""
    criterion = strategy._criterion
    weight = getattr(getattr(criterion, "criterion", criterion), "weight", None)
    if weight is None:
        return
    if len(weight) < model.width:
        raise ConfigError(
            expected=f"a weight for each of the {model.width} class numbers met so far",
            got=f"{len(weight)} weights",
            remedy="Give the criterion a weight for every class of the benchmark.",
        )
    model.width = len(weight)


def _check_apart(model: AvalancheModel, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a frozen backbone where strategies would copy, penalise or step it."""
    frozen = {id(p) for p in model.prompted.backbone.model.parameters()}
    registered = (p for module in model.modules() for p in module._parameters.values())
    given = (p for group in optimizer.param_groups for p in group["params"])
    places = {"registered inside it": registered, "in the optimiser": given}
    for place, parameters in places.items():
        found = sum(id(p) in frozen for p in parameters)
        if found:
            raise ConfigError(
                expected="the frozen backbone outside of the strategy's model and optimiser",
                got=f"{found} of its parameters {place}",
                remedy="Leave it to AvalancheModel(method.build(backbone)), which holds it apart, "
                "and make the optimiser of model.parameters().",
            )


def _whole(data: Any) -> tuple[Tensor, Tensor]:
    if not len(data):
        raise StateError(expected="training data", got="none", remedy="Check the benchmark.")
    loader = DataLoader(data, batch_size=len(data), generator=torch.Generator())
    x, y, *_ = next(iter(loader))
    return x, y
