"""One run of cpool's prompt tuning on a stream of texts, the task told; see `benchmarks.peers`."""

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 (else while the clock runs)

import cpool
from benchmarks.peers.as_task import as_task
from benchmarks.peers.measured import Run, texts
from cpool.methods import PromptTuning


def main() -> None:
    """Train a prompt a task, and evaluate all of them after each."""
    run = Run.of_command_line()
    job, stream = run.job, texts(run)
    with run.time("set_up"):
        backbone = cpool.load_backbone(stream["backbone"])
        method = PromptTuning(
            length=None, init="text", text=job["text"], template=job["template"], end="never"
        )
        model = method.build(backbone)
        model.name_classes(stream["names"])
        learner = cpool.Learner(
            model,
            seed=job["seed"],
            quiet=True,
            device="cpu",
            lr=job["lr"],
            epochs=job["epochs"],
            batch_size=job["batch_size"],
            optimizer="adam",
            schedule="constant",
            clip_norm=job["clip_norm"],
        )
    tasks = [as_task(t, content, content["classes"]) for t, content in enumerate(stream["tasks"])]
    for task in tasks:
        with run.time("train"):
            learner.fit_task(task)
        with run.time("evaluate"):
            run.matrix.append(learner.evaluate(tasks[: task.index + 1], told=True))
    with run.time("evaluate_afresh"):
        learner.evaluate(tasks, told=True, cached=False)
    whole = backbone.language_model or backbone.plain_model
    held: list[torch.Tensor] = [*whole.parameters(), *whole.buffers()]
    run.write(model=[*held, *model.state_dict().values()], trained=learner.trained.total)


if __name__ == "__main__":
    main()
