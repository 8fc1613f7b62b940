"""One run of CapyMOA's L2P on a stream of images; see `benchmarks.peers`.

The backbone goes in by its interface `L2PViT`: its own adapter of transformers' models asks for
attributes that today's have under other names. Its evaluation loop would also predict every
training batch before learning it, so that the strategy is called directly: `on_train_task`,
`batch_train`, `batch_predict`. Its pool has slots for each task, and each task chooses among its
own in training.
"""

import contextlib
import io
import logging

import numpy as np
import torch
from capymoa.ocl.strategy.l2p import L2P, L2PViT
from capymoa.stream import Schema
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTModel

from benchmarks.peers.measured import Run, images


class SharedViT(L2PViT, nn.Module):
    """The backbone of the comparison as CapyMOA's strategy calls it."""

    def __init__(self, model: ViTModel) -> None:
        super().__init__()
        self.model = model

    def get_embedding_size(self) -> int:
        width: int = self.model.config.hidden_size
        return width

    def get_patch_embed(self, pixel_values: Tensor) -> Tensor:
        made: Tensor = self.model.embeddings(pixel_values)
        return made

    def forward_encoder(self, prompts: Tensor, patch_embed: Tensor) -> Tensor:
        # As in its own adapter: prompts get the position of [CLS].
        placed = prompts + self.model.embeddings.position_embeddings[:, :1]
        return self._encode(torch.cat([patch_embed[:, :1], placed, patch_embed[:, 1:]], dim=1))

    @torch.no_grad()
    def forward_query(self, patch_embed: Tensor) -> Tensor:
        return self._encode(patch_embed)[:, 0]

    def _encode(self, hidden: Tensor) -> Tensor:
        for layer in self.model.layers:
            hidden = layer(hidden)
        normed: Tensor = self.model.layernorm(hidden)
        return normed


def schema_of(side: int, classes: int) -> Schema:
    """Return the description of images [3 side side] of some classes."""
    names = [f"pixel {i}" for i in range(3 * side * side)]
    labels = [str(c) for c in range(classes)]
    schema = Schema.from_custom([*names, "class"], "class", {"class": labels}, name="images")
    schema.shape = (3, side, side)
    return schema


def prepared(x: np.ndarray) -> Tensor:
    """Return the values [n 3 H W] that the image processor makes of the images."""
    values = torch.from_numpy(x).permute(0, 3, 1, 2).float() * (1 / 255)
    return ((values - 0.5) / 0.5).contiguous()


def main() -> None:
    """Train and evaluate task after task."""
    run = Run.of_command_line()
    logging.disable(logging.WARNING)
    job, tasks = run.job, images(run)
    own = [sorted(set(task["y"].tolist())) for task in tasks]
    count = sum(map(len, own))
    with run.time("set_up"):
        mask = torch.zeros(len(tasks), count, dtype=torch.bool)
        for t, classes in enumerate(own):
            mask[t, classes] = True
        vit = SharedViT(ViTModel.from_pretrained(run.folder / "backbone", add_pooling_layer=False))
        learner = L2P(
            schema_of(tasks[0]["x"].shape[1], count),
            mask,
            vit,
            prompts_per_task=job["top_k"],
            prompt_length=job["length"],
            top_k=job["top_k"],
            pull_constraint_coeff=job["pull"] * job["top_k"],  # it takes the mean over the chosen
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=job["lr"]),
            random_seed=job["seed"],
        )
        data = [
            {
                part: TensorDataset(
                    prepared(task[f"x{part}"]), torch.from_numpy(task[f"y{part}"]).long()
                )
                for part in ("", "_test")
            }
            for task in tasks
        ]
    first = data[0]["_test"].tensors[0][:8]
    far = run.check_features(vit.forward_query(vit.get_patch_embed(first)))

    @torch.no_grad()
    def evaluate(seen: int) -> list[float]:
        row = []
        for parts in data[:seen]:
            loader = DataLoader(parts["_test"], job["batch_size"])
            right = [learner.batch_predict(x) == y for x, y in loader]
            row.append(float(torch.cat(right).float().mean()))
        return row

    for t, parts in enumerate(data):
        # It prints every step.
        with run.time("train"), contextlib.redirect_stdout(io.StringIO()):
            learner.on_train_task(t)
            loader = DataLoader(parts[""], job["batch_size"], shuffle=True)
            for _ in range(job["epochs"]):
                for x, y in loader:
                    learner.batch_train(x, y)
        with run.time("evaluate"):
            run.matrix.append(evaluate(t + 1))
    with run.time("evaluate_afresh"):
        evaluate(len(data))
    model = learner._model
    run.write(
        model=[*model.parameters(), *model.buffers()],
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        feature_error=far,
    )


if __name__ == "__main__":
    main()
