"""One run of cpool's L2P on a stream of images; see `benchmarks.peers`."""

import torch
import transformers.models.vit.modeling_vit  # noqa: F401 (else imported while the clock runs)

import cpool
from benchmarks.peers.as_task import as_task
from benchmarks.peers.measured import Run, images
from cpool.methods import L2P


def main() -> None:
    """Train and evaluate task after task, as `Learner.run` does."""
    run = Run.of_command_line()
    job, tasks = run.job, images(run)
    with run.time("set_up"):
        backbone = cpool.load_backbone(run.folder / "backbone")
        method = L2P(
            pool_size=job["pool_size"],
            top_k=job["top_k"],
            length=job["length"],
            pull=job["pull"],
            position=job["position"],
            slots_per_task=job.get("slots_per_task"),
        )
        learner = cpool.Learner(
            method.build(backbone),
            seed=job["seed"],
            quiet=True,
            device="cpu",
            lr=job["lr"],
            epochs=job["epochs"],
            batch_size=job["batch_size"],
            optimizer="adam",
            schedule="constant",
            clip_norm=0.0,  # Avalanche does not clip
            mask="task",
            anchor=job.get("anchor", 0.0),
        )
    with torch.no_grad():
        query = backbone.query(backbone.prepare(tasks[0]["x_test"][:8]))
    far = run.check_features(query)
    stream = [as_task(t, a, sorted(set(a["y"].tolist()))) for t, a in enumerate(tasks)]
    for task in stream:
        with run.time("train"):
            learner.fit_task(task)
        with run.time("evaluate"):
            run.matrix.append(learner.evaluate(stream[: task.index + 1]))
    with run.time("evaluate_afresh"):
        learner.evaluate(stream, cached=False)
    model = learner.model
    held = [*backbone.plain_model.parameters(), *backbone.plain_model.buffers()]
    run.write(
        model=[*held, *model.state_dict().values()],
        trained=learner.trained.total,
        feature_error=far,
    )


if __name__ == "__main__":
    main()
