"""SFTTrainer of TRL on a prompted language model; skipped where TRL is not installed."""

import pytest
import torch

trl = pytest.importorskip("trl", reason="TRL is not installed")
datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

from cpool.interop.transformers import CpoolForCausalLM, TaskCallback  # noqa: E402
from cpool.methods import PromptTuning  # noqa: E402
from tests import tiny  # noqa: E402
from tests.interop.trained import same, weights  # noqa: E402


# TRL turns it on by a name that transformers is giving up.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_sft_trainer_teaches_the_prompt_the_completions(tmp_path):
    torch.manual_seed(0)
    backbone = tiny.new("llama")
    model = CpoolForCausalLM.of(PromptTuning(length=2, template="{{ text }}").build(backbone))
    before = weights(backbone)
    rows = {"prompt": tiny.raw("llama", 8), "completion": [" red bird", " bank loan"] * 4}
    data = datasets.Dataset.from_dict(rows)
    run = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            str(tmp_path),
            num_train_epochs=3,
            per_device_train_batch_size=4,
            learning_rate=0.05,
            max_length=40,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=data,
        eval_dataset=data,
        processing_class=backbone.processor,
        callbacks=[TaskCallback("red bird")],
    )
    batch = next(iter(run.get_eval_dataloader()))
    start = model.prompted.prompter.branches["prompt"].pool.values().detach().clone()
    model(**batch)  # a slot answers in validation once it was used in training
    model.eval()
    with torch.no_grad():
        mine = model(**batch).loss
    # It scores the words itself, from the states that the model gives it.
    torch.testing.assert_close(torch.tensor(run.evaluate()["eval_loss"]), mine, atol=1e-4, rtol=0)
    run.train()
    assert run.evaluate()["eval_loss"] < mine
    assert not torch.equal(start, model.prompted.prompter.branches["prompt"].pool.values())
    assert same(before, weights(backbone))
    assert not model.running
