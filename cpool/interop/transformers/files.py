"""Where the files of a prompted model are: in a folder, or on the hub."""

from typing import Any

from transformers.utils.hub import cached_file

from cpool.errors import CheckpointError, ConfigError
from cpool.interop.transformers.config import CpoolConfig

__all__ = ["found"]

WEIGHTS = "model.safetensors"
HUB = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
# What auto classes and pipelines pass along, which changes nothing here.
PASSED = ("adapter_kwargs", "trust_remote_code", "use_safetensors")


def found(
    name: str, config: CpoolConfig | None, options: dict[str, Any]
) -> tuple[CpoolConfig, str]:
    """Return the config of a model and the path of its tensors.

    Args:
        name: a folder or a hub id.
        config: read from there when None.
        options: of `from_pretrained`.

    Raises:
        CheckpointError: no such files, or written amid a task.
        ConfigError: an option that a frozen model cannot follow.
    """
    hub = {key: options[key] for key in HUB if key in options}
    # With an underscore auto classes and pipelines say where a call comes from.
    rest = {k: v for k, v in options.items() if k not in HUB + PASSED and k[0] != "_"}
    wrong = sorted(key for key, value in rest.items() if value)
    if wrong:
        raise ConfigError(
            expected=f"options of the hub: {', '.join(HUB)}",
            got=", ".join(wrong),
            remedy="Load the frozen model as you want it and pass it as backbone=.",
        )
    try:
        config = config or CpoolConfig.from_pretrained(name, **hub)
        weights = str(cached_file(name, WEIGHTS, **hub))
    except OSError as error:
        raise CheckpointError(
            expected=f"a folder or a hub id with config.json and {WEIGHTS}",
            got=f"{name}: {error}",
            remedy="Name what save_pretrained or push_to_hub wrote.",
        ) from error
    if config.running:
        tasks = (config.layout or {}).get("tasks", ())
        raise CheckpointError(
            expected="a model whose tasks have ended",
            got=f"{name}, written in the middle of task {len(tasks) - 1}",
            remedy="Load the model from before that task, make the Trainer with the same "
            "TaskCallback, and call train(resume_from_checkpoint=…).",
        )
    return config, weights
