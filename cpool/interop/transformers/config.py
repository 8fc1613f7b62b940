"""CpoolConfig: what a prompted model is, beside its tensors; the config.json of its folder."""

from typing import Any

from transformers import PreTrainedConfig

from cpool.backbones import Backbone, load_backbone
from cpool.checkpoint import check_backbone, describe_method, words_of
from cpool.model import PromptedModel
from cpool.resuming import method_of

__all__ = ["CpoolConfig", "described", "rebuilt"]


class CpoolConfig(PreTrainedConfig):
    """What a prompted model is, beside its tensors.

    Args:
        base_model: `Backbone.spec()` of the frozen model; its name is where it is loaded from.
        method: name and hyper-parameters of the method; None for one of one's own.
        words: SHA-256 of the output embedding, where labels are scored by their words.
        layout: slots, classes, tasks and rules, as `PromptedModel.layout` says.
        running: whether this was written in the middle of a task.
        task_names: task number → name, of the tasks of a language model that had one.
        **rest: of every config, such as id2label.
    """

    model_type = "cpool"

    def __init__(
        self,
        *,
        base_model: dict[str, Any] | None = None,
        method: dict[str, Any] | None = None,
        words: str | None = None,
        layout: dict[str, Any] | None = None,
        running: bool = False,
        task_names: dict[str, str] | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.base_model, self.method, self.words = base_model, method, words
        self.layout, self.running, self.task_names = layout, running, task_names


def described(model: PromptedModel) -> dict[str, Any]:
    """Return what `CpoolConfig` takes down of a model."""
    return {
        "base_model": model.backbone.spec(),
        "method": model.method and describe_method(model.method),
        "words": words_of(model),
        "layout": model.layout(),
    }


def rebuilt(
    config: CpoolConfig,
    backbone: Backbone | None = None,
    model: PromptedModel | None = None,
    dtype: Any = None,
) -> PromptedModel:
    """Return the model that a config describes; its tensors still have to be loaded.

    Args:
        config: of a saved model.
        backbone: the frozen model; loaded by its name when None.
        model: a new model of the same build, for a method of one's own.
        dtype: of the weights of a backbone that is loaded; as it was when None.

    Raises:
        CheckpointError: another backbone than that of the config, or a method of one's own
            without a model.
        BackboneError: nothing under the backbone's name.
    """
    then: dict[str, Any] = config.base_model or {}
    if model is None:
        method = method_of({"method": config.method})
        backbone = backbone or load_backbone(
            then["name"],
            pooling=then["pooling"],
            normalize=then["normalize"],
            layers=then["layers"],
            dtype=dtype or then["dtype"],
        )
        model = method.build(backbone)
    check_backbone({"backbone": then, "words": config.words}, model)
    assert config.layout is not None
    model.restore(config.layout)
    return model
