"""The models of the benchmarks that are made from packages, and the commands that make them."""

from pathlib import Path

from cpool.errors import ConfigError
from cpool.experiment.config import Experiment

__all__ = ["MADE", "check_made"]

MADE = {
    "build/vit-s-14": "python -m benchmarks.vit_s",
    "build/smollm2-135m": "python -m benchmarks.smollm2",
}


def check_made(experiment: Experiment) -> None:
    """Refuse an experiment on a model that is to be made and is not there.

    Raises:
        ConfigError: with the command that makes it.
    """
    name = str(experiment.backbone["name"])
    if name in MADE and not (Path(name) / "model.safetensors").is_file():
        raise ConfigError(
            expected=f"a model in {name}",
            got="none there",
            remedy=f"Make it, in about 20 s: {MADE[name]}",
        )
