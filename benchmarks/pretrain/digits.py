"""How well the small vision transformer's features tell scikit-learn's digits apart.

    python -m benchmarks.pretrain.digits cpool/assets/glyph-vit

The digits measure the finished model; they are used for nothing else.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import ViTModel


def pixels(size: int) -> tuple[torch.Tensor, np.ndarray]:
    """The digits as the model wants them, (n, 3, size, size) from −1 to 1, and their labels."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)
    scaled = [Image.fromarray(i).resize((size, size), Image.Resampling.BILINEAR) for i in images]
    values = torch.from_numpy(np.stack([np.asarray(image) for image in scaled]))
    return (values / 255 - 0.5)[:, None].expand(-1, 3, -1, -1) / 0.5, digits.target


@torch.no_grad()
def features(model: ViTModel, images: torch.Tensor) -> np.ndarray:
    """The class token after the last layer norm: (n, width)."""
    model.eval()
    return torch.cat([model(part).last_hidden_state[:, 0] for part in images.split(64)]).numpy()


def nearest_mean(train: np.ndarray, y: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> float:
    """Accuracy by the cosine to the mean of each class's features of length 1."""
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    means = np.stack([train[y == label].mean(0) for label in np.unique(y)])
    means = means / np.linalg.norm(means, axis=1, keepdims=True)
    return float((np.unique(y)[(test @ means.T).argmax(1)] == wanted).mean())


def linear_probe(train: np.ndarray, y: np.ndarray, test: np.ndarray, wanted: np.ndarray) -> float:
    """Accuracy of a logistic regression on standardised features."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))
    return float(probe.fit(train, y).score(test, wanted))


def figures(folder: Path) -> dict[str, float]:
    """Accuracies, in percent, on 360 digits held out of 1,797."""
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    images, y = pixels(model.config.image_size)
    split = train_test_split(features(model, images), y, test_size=360, random_state=0, stratify=y)
    train, test, y_train, y_test = split
    return {
        "nearest class mean": 100 * nearest_mean(train, y_train, test, y_test),
        "linear probe": 100 * linear_probe(train, y_train, test, y_test),
    }


def epoch_seconds(folder: Path) -> float:
    """Seconds for a forward and backward pass over 1,437 digits, 64 at a time."""
    model = ViTModel.from_pretrained(folder, add_pooling_layer=False)
    images = pixels(model.config.image_size)[0][:1437]
    model(images[:64]).last_hidden_state.sum().backward()
    begin = time.monotonic()
    for part in images.split(64):
        model(part).last_hidden_state[:, 0].sum().backward()
    return time.monotonic() - begin


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, value in figures(folder).items():
        print(f"{name}: {value:.2f} %")
    print(f"forward and backward over 1,437 digits: {epoch_seconds(folder):.2f} s")


if __name__ == "__main__":
    main()
