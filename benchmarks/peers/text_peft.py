"""One run of PEFT's prompt tuning on a stream of texts, the task told; see `benchmarks.peers`.

An adapter a task, which learns the words of the right label after the text, as PEFT trains
prompts; at test the label of the task whose words are likeliest is the answer, a row for each text
and label.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.peers.measured import Run, texts

IGNORED = -100


class Rows:
    """Texts and what follows them, as the batches of a language model.

    Args:
        tokenizer: of the model.
        template: what is asked of a text.
        names: of all labels.
    """

    def __init__(self, tokenizer: Any, template: str, names: Sequence[str]) -> None:
        self.tokenizer, self.template = tokenizer, template
        self.labels = [tokenizer.encode(f" {name}", add_special_tokens=False) for name in names]

    def batch(self, pairs: Sequence[tuple[str, int]]) -> dict[str, Tensor]:
        """Return ids, mask and the tokens that count, [B T], padded on the right."""
        asked = [self.template.replace("{{ text }}", text) for text, _ in pairs]
        heads = [self.tokenizer.encode(text, add_special_tokens=False) for text in asked]
        rows = [(head, self.labels[label]) for head, (_, label) in zip(heads, pairs, strict=True)]
        width = max(len(head) + len(tail) for head, tail in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for i, (head, tail) in enumerate(rows):
            end = len(head) + len(tail)
            ids[i, :end] = torch.tensor(head + tail)
            mask[i, :end] = 1
            labels[i, len(head) : end] = torch.tensor(tail)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(model: Any, rows: Rows, task: dict[str, Any], job: dict[str, Any]) -> None:
    """Train the adapter that is active."""
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, job["lr"])
    pairs = list(zip(task["x"], task["y"], strict=True))
    for _ in range(job["epochs"]):
        order = torch.randperm(len(pairs)).tolist()
        for places in chunks(order, job["batch_size"]):
            loss = model(**rows.batch([pairs[i] for i in places])).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, job["clip_norm"])
            optimizer.step()


@torch.no_grad()
def accuracy(model: Any, rows: Rows, task: dict[str, Any], size: int) -> float:
    """Return the share of test texts whose label is the likeliest of its task."""
    model.eval()
    classes, right = task["classes"], 0
    for places in chunks(range(len(task["x_test"])), size):
        pairs = [(task["x_test"][i], c) for i in places for c in classes]
        batch = rows.batch(pairs)
        labels = batch.pop("labels")
        # The scores behind the prompt and the last token of a row predict nothing that counts.
        logits = model(**batch).logits[:, -labels.shape[1] : -1]
        labels = labels[:, 1:]
        chosen = logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
        scores = chosen.masked_fill(labels == IGNORED, 0.0).sum(1).view(-1, len(classes))
        found = scores.argmax(1).tolist()
        right += sum(classes[k] == task["y_test"][i] for i, k in zip(places, found, strict=True))
    return right / len(task["x_test"])


def chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Return the items in pieces of at most `size`."""
    return (items[i : i + size] for i in range(0, len(items), size))


def main() -> None:
    """Train an adapter a task, and evaluate all of them after each."""
    run = Run.of_command_line()
    job, stream = run.job, texts(run)
    tasks = stream["tasks"]
    with run.time("set_up"):
        tokenizer = AutoTokenizer.from_pretrained(stream["backbone"])
        base = AutoModelForCausalLM.from_pretrained(stream["backbone"], dtype=torch.float32)
        start = tokenizer.encode(job["text"], add_special_tokens=False)
        config = PromptTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            prompt_tuning_init=PromptTuningInit.TEXT,
            prompt_tuning_init_text=job["text"],
            num_virtual_tokens=len(start),
            tokenizer_name_or_path=stream["backbone"],
        )
        rows = Rows(tokenizer, job["template"], stream["names"])
        model = get_peft_model(base, config, adapter_name="task0")
    trained: dict[int, int] = {}  # an adapter of an earlier task may still say that it trains
    for t, task in enumerate(tasks):
        with run.time("train"):
            if t:
                model.add_adapter(f"task{t}", config)
            model.set_adapter(f"task{t}")
            train(model, rows, task, job)
        trained |= {id(p): p.numel() for p in model.parameters() if p.requires_grad}
        with run.time("evaluate"):
            run.matrix.append(evaluate(model, rows, tasks[: t + 1], job["batch_size"]))
    with run.time("evaluate_afresh"):
        evaluate(model, rows, tasks, job["batch_size"])
    run.write(model=[*model.parameters(), *model.buffers()], trained=sum(trained.values()))


def evaluate(model: Any, rows: Rows, tasks: Sequence[dict[str, Any]], size: int) -> list[float]:
    """Return the accuracy on each task with its own adapter."""
    row = []
    for t, task in enumerate(tasks):
        model.set_adapter(f"task{t}")
        row.append(accuracy(model, rows, task, size))
    return row


if __name__ == "__main__":
    main()
