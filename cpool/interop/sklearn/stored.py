"""What is stored of a fitted estimator: a checkpoint, and where its backbone comes from."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cpool.backbones import Backbone, load_backbone, wrap_model
from cpool.learner import Learner
from cpool.methods import Method

__all__ = ["StoredBackbone", "StoredLearner"]


@dataclass
class StoredBackbone:
    """A backbone by its name alone, or whole where it was given as an object.

    Attributes:
        name: of the backbone.
        query: how its query features are read.
        dtype: of its weights.
        whole: model and processor; None where the name is enough to load them again.
    """

    name: str
    query: dict[str, Any]
    dtype: str
    whole: tuple[Any, Any] | None
    _loaded: Backbone | None = field(default=None, repr=False)

    @classmethod
    def of(cls, backbone: Backbone, *, named: bool) -> "StoredBackbone":
        """Describe a backbone; `named` if its name is enough to load it again."""
        query = {
            "pooling": backbone.pooling,
            "normalize": backbone.normalize,
            "layers": list(backbone.layers),
        }
        dtype = str(backbone.dtype).removeprefix("torch.")
        if named:
            return cls(backbone.name, query, dtype, None)
        # A language model is stored with its output embedding, without which it scores no words.
        model = backbone.language_model if backbone.has_words else backbone.plain_model
        if backbone.device.type != "cpu":
            model = copy.deepcopy(model).cpu()  # to be loaded where there is no such device
        return cls(backbone.name, query, dtype, (model, backbone.processor))

    def load(self) -> Backbone:
        """Return the backbone, the same one at each call."""
        if self._loaded is None:
            if self.whole is None:
                self._loaded = load_backbone(self.name, dtype=self.dtype, **self.query)
            else:
                model, processor = self.whole
                self._loaded = wrap_model(
                    model, processor, name=self.name, dtype=self.dtype, **self.query
                )
        return self._loaded


@dataclass
class StoredLearner:
    """The files of a learner's checkpoint, and what the model is built from.

    Attributes:
        files: name to content, as `Learner.save` writes them.
        method: that builds the model.
        backbone: that it is built on.
    """

    files: dict[str, bytes]
    method: Method
    backbone: StoredBackbone

    @classmethod
    def of(cls, learner: Learner, backbone: StoredBackbone) -> "StoredLearner":
        """Store a learner."""
        with TemporaryDirectory() as folder:
            learner.save(folder)
            files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        return cls(files, learner.model.method, backbone)

    def load(self, **options: Any) -> Learner:
        """Return the learner again.

        Args:
            **options: as for the constructor of `Learner`.

        Raises:
            CheckpointError: the backbone under that name is another one by now.
        """
        backbone = self.backbone.load()
        with TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            return Learner.load(folder, backbone, self.method.build(backbone), **options)
