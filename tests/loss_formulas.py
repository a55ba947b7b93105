"""The losses of training in PyTorch's float64, of whole matrices, as the papers state them."""

import numpy as np
import torch
from torch.nn.functional import logsigmoid

SHARED, OWN, NEGATIVE = range(3)


def sight(owner, role, clips):
    """Return who sees what, and who belongs to what as a positive, (clips, texts) of bool."""
    owner, role = (torch.tensor(np.asarray(x)) for x in (owner, role))
    mine = torch.arange(clips)[:, None] == owner
    return mine | (role == SHARED), mine & (role != NEGATIVE)


def contrastive(z, sees, positive):
    hidden = z.masked_fill(~sees, -torch.inf)
    to_text = hidden.log_softmax(1).masked_fill(~positive, 0).sum(1) / positive.sum(1)
    texts = positive.any(0)
    to_audio = z.log_softmax(0).masked_fill(~positive, 0).sum(0)[texts]
    return -(to_text.mean() + to_audio.mean()) / 2


def sigmoid(z, sees, positive):
    sign = torch.where(positive, 1.0, -1.0)
    return -logsigmoid(sign * z).masked_fill(~sees, 0).sum() / len(z)


def distillation(z, of_teacher):
    def cross(target, x):
        return -(target.softmax(1) * x.log_softmax(1)).sum(1).mean()

    return (cross(of_teacher, z) + cross(of_teacher.T, z.T)) / 2


def losses(
    terms, a, t, log_scale, bias=0, owner=None, role=None, teacher_a=None, teacher_t=None,
    teacher_log_scale=0,
):  # fmt: skip
    """Return the loss and its gradients, as ``kernels.losses`` does."""
    owner = np.arange(len(t)) if owner is None else owner
    sees, positive = sight(owner, np.zeros(len(t), int) if role is None else role, len(a))
    log_scale, bias = np.float32(log_scale), np.float32(bias)
    leaves = [torch.tensor(np.float64(x), requires_grad=True) for x in (a, t, log_scale, bias)]
    a, t, log_scale, bias = leaves
    z = log_scale.exp() * a @ t.T
    if teacher_a is not None:
        of_teacher = torch.tensor(
            np.exp(np.float64(np.float32(teacher_log_scale)))
            * np.float64(teacher_a)
            @ np.float64(teacher_t).T
        )
    made = {
        "contrastive": lambda: contrastive(z, sees, positive),
        "sigmoid": lambda: sigmoid(z + bias, sees, positive),
        "distillation": lambda: distillation(z, of_teacher),
    }
    loss = sum(weight * made[name]() for name, weight in terms)
    loss.backward()
    return loss.item(), *(np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in leaves)
