"""The network that a plan trains, without its privacy: for comparison, never to release."""

import torch
from torch import nn

from lethe.config.training import Optimizer
from lethe.privacy.noise.sampling import Keystream, poisson_draw
from lethe.training.engines.contract import checked_losses, person_losses, trainable_parameters
from lethe.training.loop import Task
from lethe.training.optimizer import Updater


def train_plain(task: Task, optimizer: Optimizer, *, device: str = "cpu") -> nn.Module:
    """The same network by the same loop without clip and noise: NOT private, never to release.

    For comparison alone: the plan's draws, steps and optimizer, the mean gradient of
    people instead of the noisy clipped one.
    """
    plan, data, model = task.plan, task.data, task.model.to(device)
    keystream = Keystream.from_system()
    updater = Updater(model, optimizer, plan.steps)
    parameters = trainable_parameters(model)
    for _ in range(plan.steps):
        drawn = torch.from_numpy(poisson_draw(keystream, len(data), plan.sample_rate))
        features, mask, labels = data.batch(drawn, device)
        outputs = model(features.flatten(0, 1))
        losses = checked_losses(task.loss_fn(outputs, labels.flatten()), mask.numel())
        loss = person_losses(losses, mask).sum() / plan.expected_batch_size
        updater.step(list(torch.autograd.grad(loss, parameters)))
    updater.finish()
    return model.eval()
