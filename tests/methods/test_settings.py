"""Hyper-parameters and training settings that cannot work are refused before anything is built."""

import os
import subprocess
import sys

import pytest

from cpool.errors import ConfigError
from cpool.methods import (
    L2P,
    METHODS,
    MVP,
    NCM,
    CODAPrompt,
    ConvPrompt,
    DualPrompt,
    FirstSessionPrompt,
    HiDePrompt,
    Joint,
    MoCLPrompt,
    OnePrompt,
    OSPrompt,
    PromptRidge,
    RanPAC,
    Ridge,
)
from tests import tiny


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (L2P, {"init": 0.0}, "init above 0"),
        (L2P, {"init": float("inf")}, "init above 0 and finite"),
        (L2P, {"pull": -0.1}, "pull at least 0"),
        (DualPrompt, {"pull": float("nan")}, "pull at least 0 and finite"),
        (DualPrompt, {"init": -1.0}, "init above 0"),
        (DualPrompt, {"general_layers": (0, 0)}, "general_layers with each layer once"),
        (DualPrompt, {"expert_layers": (2, 3, 2)}, "expert_layers with each layer once"),
        (MVP, {"expert_layers": ()}, "expert_layers with at least one layer, each once;"),
        (MVP, {"general_layers": (1, 1)}, "general_layers with each layer once"),
        (OnePrompt, {"late_layers": (2, 2)}, "late_layers with each layer once"),
        *(
            (method, {"layers": layers}, "layers with at least one layer, each once, or None")
            for method in (CODAPrompt, ConvPrompt, HiDePrompt, MoCLPrompt, OSPrompt)
            for layers in ((), (0, 2, 0))
        ),
        *(
            (method, {"ridge": value, **more}, 'ridge above 0 and finite, "auto" or "left_out"')
            for method, more in ((Ridge, {}), (FirstSessionPrompt, {"classifier": "ridge"}))
            for value in (0.0, float("inf"))
        ),
        (RanPAC, {"projection": 0}, "projection at least 1"),
        (RanPAC, {"ridge": 0.0}, "ridge above 0"),
        (RanPAC, {"ridge": float("nan")}, "ridge above 0 and finite"),
    ],
)
def test_hyper_parameters_that_cannot_work(method, options, says):
    with pytest.raises(ConfigError, match=says):
        method(**options)


def test_what_can_work_is_taken():
    DualPrompt(general_layers=(0, 1), expert_layers=(1, 2), pull=0.0)
    RanPAC(projection=1, ridge=1e-8)
    for name, method in METHODS.items():
        assert method().name == name


def test_options_of_the_inner_method_are_checked_by_name():
    backbone = tiny.KINDS["vit"]()
    with pytest.raises(ConfigError, match="Did you mean 'top_k'"):
        Joint(of="l2p", options={"topk": 3}).build(backbone)
    assert Joint(of="dualprompt", options={"expert_layers": [1]}).inner.expert_layers == (1,)


def test_closed_form_methods_train_nothing():
    closed = {name for name, method in METHODS.items() if not method().trains}
    assert closed == {"few_shot", "ncm", "prompt_search", "ranpac", "ridge", "slda", "zero_shot"}
    assert RanPAC(first_session=True).trains
    assert not PromptRidge(prompt="random").trains
    assert not Joint(of="ncm").trains
    assert Joint(of="linear_head").trains
    assert not NCM.prompts


WRONG_TYPES = """
from cpool.errors import ConfigError
from cpool.settings import TrainSettings

for key, value in [
    ("epochs", 2.5), ("epochs", True), ("batch_size", "64"), ("batch_size", False),
    ("lr", "0.1"), ("lr", True), ("lr", float("nan")), ("weight_decay", None),
    ("momentum", float("nan")), ("clip_norm", float("inf")),
]:
    try:
        TrainSettings().but(**{key: value})
    except ConfigError as error:
        assert f"expected {key} as a" in str(error), error
        assert f"Change train.{key}." in str(error), error
    else:
        raise SystemExit(f"{key}={value!r} was taken")
"""


def test_settings_of_a_wrong_type():
    # In a process of its own: here the annotations are checked before the settings are.
    env = {**os.environ, "CPOOL_TYPECHECK": "0"}
    code = [sys.executable, "-c", WRONG_TYPES]
    done = subprocess.run(code, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
