"""A network with ten inputs, ten hidden units and one output."""

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(10, 10)
        self.output = nn.Linear(10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [n, 10] → [n, 1]"""
        return self.output(torch.relu(self.hidden(x)))
