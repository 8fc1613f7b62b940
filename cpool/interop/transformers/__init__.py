"""Prompted models inside the tools of Hugging Face: Trainer, pipelines, save and push.

One design serves all of them: a `PreTrainedModel` around a `PromptedModel`, one class for each kind
of answer (`CpoolForSequenceClassification`, `CpoolForImageClassification`, `CpoolForCausalLM`), and
a `CpoolConfig` that says what no tensor holds: the frozen model's name and fingerprint, the method,
and the layout of slots, classes and tasks. The frozen model is in no module tree, so a Trainer, an
optimiser, a checkpoint and an upload see what is learned and nothing else:

    config.json + model.safetensors  =  the prompts, keys and heads, never the backbone

A Trainer trains one task. `TaskCallback` begins it when the Trainer is made, before the optimiser
is, since what grows later would never train; and ends it on the Trainer's own data when training
ends, which is when routers and closed-form heads learn. Two kinds of methods are left to
`cpool.Learner`: those that are shown raw inputs or hold rows back (few-shot, PromptRidge with
`prompt="auto"`), and training in several processes.

Importing this module registers the classes with AutoConfig and the auto models, so that
`pipeline("text-classification", model=folder)` finds them.
"""

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)
from transformers.models.auto import modeling_auto

from cpool.interop.transformers.callback import TaskCallback
from cpool.interop.transformers.causal import CpoolForCausalLM
from cpool.interop.transformers.classification import (
    CpoolForImageClassification,
    CpoolForSequenceClassification,
)
from cpool.interop.transformers.config import CpoolConfig
from cpool.interop.transformers.tokens import ModelTokenizer

__all__ = [
    "CpoolConfig",
    "CpoolForCausalLM",
    "CpoolForImageClassification",
    "CpoolForSequenceClassification",
    "ModelTokenizer",
    "TaskCallback",
]

AutoConfig.register("cpool", CpoolConfig, exist_ok=True)
AutoModelForSequenceClassification.register(
    CpoolConfig, CpoolForSequenceClassification, exist_ok=True
)
AutoModelForImageClassification.register(CpoolConfig, CpoolForImageClassification, exist_ok=True)
AutoModelForCausalLM.register(CpoolConfig, CpoolForCausalLM, exist_ok=True)
# Pipelines look the class up by name, in lists that `register` does not reach, and would log that
# it is not supported.
for _names, _kind in (
    (modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES, CpoolForSequenceClassification),
    (modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, CpoolForImageClassification),
    (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, CpoolForCausalLM),
):
    _names.setdefault("cpool", _kind.__name__)
