"""L2P and DualPrompt against the numbers of their public codes: features, losses, gradients."""

import pytest
import torch

from cpool.methods import L2P, DualPrompt
from tests.golden_vit import golden_backbone, images


def close(a, b, tolerance=1e-5):
    return torch.allclose(a.detach().float(), b.float(), atol=tolerance, rtol=1e-5)


def close_gradient(a, b):
    return (a - b).abs().max() <= 1e-5 * b.abs().max()


def set_(parameter, value):
    with torch.no_grad():
        parameter.copy_(value)


def fill_head(head, file, classes):
    head.begin_task(range(classes))
    set_(head.weights[0], file["head.weight"])
    set_(head.biases[0], file["head.bias"])


@pytest.fixture
def l2p():
    backbone, file = golden_backbone("l2p.safetensors")
    model = L2P(pool_size=6, length=3, top_k=2, pull=0.1).build(backbone)
    model.begin_task(file["task_classes"].tolist())
    # The golden head has all seven classes; the task's are 2, 3 and 4.
    model.head = type(model.head)(32)
    fill_head(model.head, file, 7)
    branch = model.prompter.branches["pool"]
    set_(branch.pool.blocks[0][:, 0], file["prompt"])
    set_(branch.policy.keys.blocks[0], file["prompt_key"])
    branch.pool.mark_trained(torch.arange(6)[None])
    return model, branch, file


def test_l2p_selects_and_computes_what_the_code_does(l2p):
    model, _, file = l2p
    out = model.eval()(images(file))
    selection = out.selections["pool"]
    assert torch.equal(selection.index, file["idx"].long())
    chosen = file["similarity"].gather(1, file["idx"].long())
    assert close(selection.similarity, chosen)
    assert close(out.features, file["out.zero.prompt.features"])
    assert close(out.logits, file["out.zero.prompt.logits"])


def test_l2p_loss_and_gradients(l2p):
    model, branch, file = l2p
    model.train()
    out = model({**images(file), "labels": file["labels"].long()}, task=0)
    assert close(out.losses["cross_entropy"], file["grad.zero.ce"])
    # The code subtracts 0.1·γ, the paper adds 0.1·(1 − γ): they differ by 0.1·k.
    assert close(out.loss - 0.1 * 2, file["grad.zero.loss"])
    out.loss.backward()
    assert close_gradient(branch.pool.blocks[0].grad[:, 0], file["grad.zero.prompt"])
    assert close_gradient(branch.policy.keys.blocks[0].grad, file["grad.zero.prompt_key"])
    assert close_gradient(model.head.weights[0].grad, file["grad.zero.head.weight"])
    assert close_gradient(model.head.biases[0].grad, file["grad.zero.head.bias"])
    masked = [0, 1, 5, 6]
    assert model.head.weights[0].grad[masked].abs().max() == 0


def test_prompts_that_start_around_the_position_of_cls_are_those_of_the_pytorch_code(l2p):
    """The code adds the position of [CLS] in each pass; the same prompts with it added once."""
    model, branch, file = l2p
    with torch.no_grad():
        branch.pool.blocks[0] += model.backbone.cls_position
    out = model.train()({**images(file), "labels": file["labels"].long()}, task=0)
    assert close(out.features, file["out.cls.prompt.features"])
    out.loss.backward()
    assert close_gradient(branch.pool.blocks[0].grad[:, 0], file["grad.cls.prompt"])


def test_the_batch_majority_of_the_code_is_not_repeated(l2p):
    """Fault 1: there an image's logits depend on its neighbours, by up to 0.58 here."""
    model, _, file = l2p
    together = model.eval()(images(file)).logits
    assert (together - file["batchwise.logits"]).abs().max() > 0.01
    for b in range(4):
        alone = model({"pixel_values": file["images"][b : b + 1]}).logits
        assert close(alone[0], together[b])


@pytest.fixture
def dualprompt():
    backbone, file = golden_backbone("dualprompt.safetensors")
    method = DualPrompt(general_length=2, expert_length=3, copy_expert=False)
    model = method.build(backbone)
    for task in range(4):
        model.begin_task([4, 5] if task == 2 else [2 * task, 2 * task + 1], task)
    model.head = type(model.head)(32)
    fill_head(model.head, file, 6)
    general, expert = model.prompter.branches["general"], model.prompter.branches["expert"]
    g, e = file["g_prompt"], file["e_prompt"]  # (layer, 2, length, h, d), (layer, 2, pool, …)
    set_(general.pool.blocks[0][0], g.flatten(0, 1).flatten(-2))
    for slot in range(4):
        set_(expert.pool.blocks[slot][0], e[:, :, slot].flatten(0, 1).flatten(-2))
        set_(expert.policy.keys.blocks[slot], file["prompt_key"][slot : slot + 1])
    for pool in (general.pool, expert.pool):
        pool.mark_trained(torch.arange(len(pool))[None])
    return model, general, expert, file


def test_dualprompt_selects_and_computes_what_the_code_does(dualprompt):
    model, _, _, file = dualprompt
    out = model.eval()(images(file))
    assert torch.equal(out.selections["expert"].index, file["idx"].long())
    assert close(out.features, file["out.features"])
    assert close(out.logits, file["out.logits"])


def test_dualprompt_loss_and_gradients(dualprompt):
    model, general, expert, file = dualprompt
    # Golden training is on task 2 with all four experts in place: thaw it as it was then.
    model.tasks = model.tasks[:3]
    for parameter in expert.parameters():
        parameter.requires_grad_(True)
    model.train()
    batch = {**images(file), "labels": file["train.labels"].long()}
    out = model(batch, task=2)
    assert close(out.logits, file["train.logits"])
    assert close(out.losses["cross_entropy"], file["train.ce_per_sample"].mean())
    assert close(out.loss - 1.0, file["train.loss"])
    out.loss.backward()
    shape = file["grad.g_prompt"].shape
    assert close_gradient(general.pool.blocks[0].grad[0].reshape(shape), file["grad.g_prompt"])
    expected = file["grad.e_prompt"]
    got = expert.pool.blocks[2].grad[0].reshape(expected[:, :, 2].shape)
    assert close_gradient(got, expected[:, :, 2])
    for other in (0, 1, 3):
        grad = expert.pool.blocks[other].grad
        assert grad is None or grad.abs().max() == 0
    key = expert.policy.keys.blocks[2].grad[0]
    assert close_gradient(key, file["grad.prompt_key"][2])
    assert close_gradient(model.head.weights[0].grad, file["grad.head.weight"])
    assert close_gradient(model.head.biases[0].grad, file["grad.head.bias"])


def test_the_reshape_fault_of_the_ports_is_not_repeated(dualprompt):
    """Fault 2: [layer, 2, B, …] reshaped to [layer, B, 2, …] mixes samples, and K with V."""
    model, _, _, file = dualprompt
    together = model.eval()(images(file)).logits
    assert (together - file["faulty_batch4.logits"]).abs().max() > 0.1
    for b in range(4):
        alone = model({"pixel_values": file["images"][b : b + 1]}).logits
        assert close(alone[0], together[b])


def test_a_pool_starts_around_the_position_of_cls():
    backbone, _ = golden_backbone("l2p.safetensors")
    starts = []
    for position in ("none", "cls"):
        torch.manual_seed(3)
        model = L2P(pool_size=6, length=3, top_k=2, position=position).build(backbone)
        model.begin_task([0, 1])
        starts.append(model.prompter.branches["pool"].pool.blocks[0].detach())
    assert close(starts[1] - starts[0], backbone.cls_position.expand(6, 1, 3, -1), 1e-6)
    assert backbone.cls_position.abs().max() > 0.1
