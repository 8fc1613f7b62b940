"""The fingerprint changes with anything that changes the output, and with nothing else."""

from pathlib import Path

import pytest
import torch

from cpool.backbones import load_backbone, wrap_model
from tests import tiny


def test_same_model_same_fingerprint(tmp_path: Path) -> None:
    backbone = tiny.KINDS["vit"]()
    assert backbone.fingerprint == tiny.KINDS["vit"]().fingerprint
    assert len(backbone.fingerprint) == 64
    backbone.model.save_pretrained(tmp_path / "a")
    # Another path, no pooler, another query: the same weights.
    loaded = load_backbone(tmp_path / "a", pooling="mean")
    assert loaded.fingerprint == backbone.fingerprint
    backbone.model.config.id2label = {0: "zero", 1: "one"}
    assert wrap_model(backbone.model).fingerprint == loaded.fingerprint


def test_other_weights_config_or_type() -> None:
    prints = {tiny.KINDS[kind]().fingerprint for kind in tiny.KINDS}
    assert len(prints) == len(tiny.KINDS)
    assert wrap_model(tiny.model("vit"), dtype="float16").fingerprint not in prints
    model = tiny.model("vit")
    model.config.layer_norm_eps = 1e-3
    assert wrap_model(model).fingerprint not in prints


@pytest.mark.parametrize("how", ["no_grad", "data", "new data", "load"])
def test_a_changed_weight_is_seen(how: str) -> None:
    backbone = tiny.KINDS["bert"]()
    before = backbone.fingerprint
    assert backbone.fingerprint == before
    weight = backbone.model.encoder.layer[1].output.dense.weight
    with torch.no_grad():
        if how == "no_grad":
            weight[3, 5] += 1
        elif how == "data":
            weight.data.mul_(2)
        elif how == "new data":
            weight.data = weight.data.clone()
            weight.data[3, 5] += 1
        else:
            backbone.model.load_state_dict(
                {
                    k: v + 1 if v.is_floating_point() else v
                    for k, v in backbone.model.state_dict().items()
                }
            )
    assert backbone.fingerprint != before


def test_compiling_does_not_matter() -> None:
    backbone = tiny.KINDS["vit"]()
    before = backbone.fingerprint
    backbone.model.compile(backend="eager")
    assert backbone.fingerprint == before
