"""Whether a network learns at all: its losses on one batch that it sees again and again."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def losses(network: nn.Module, x: Tensor, label: Tensor, rate: float, steps: int = 25) -> list[float]:
    """Cross-entropies before each step of AdamW on the parameters that are trained."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(network(x), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found
