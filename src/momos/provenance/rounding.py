"""How a machine rounds, as a hash: two machines share it if equal trainings give equal bytes.

Processors sum in an order that suits their registers and caches, libraries choose kernels by the
machine they find, and training amplifies the last bit. A processor's name does not tell (two kinds
call themselves "AMD EPYC"), so a small network is trained and its weights are hashed.
"""

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F

SHAPE = (64, 3, 16, 16)  # of the images
STEPS = 3

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class ProbeNetwork(nn.Module):
    """The operations that the pipeline's models are made of."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        second = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.convolutions = nn.ModuleList([first, second, nn.Conv2d(32, 32, 3, groups=32)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(16), nn.BatchNorm2d(32), nn.BatchNorm2d(32)])
        self.attention = nn.ModuleList([nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)])
        self.hidden = nn.ModuleList(
            [nn.Linear(3 * 16 * 16, 256), nn.Linear(256, 256), nn.Linear(256, 32)]
        )
        self.last = nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 3, 16, 16) -> (n, 10)"""
        x = images
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        x = self._attend(x.flatten(2).transpose(1, 2))
        y = images.flatten(1)
        for layer in self.hidden:
            y = F.gelu(layer(y))
        return self.last(x + y)

    def _attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, 36, 32) -> (n, 32)"""
        norm, project_in, project_out = self.attention
        parts = project_in(norm(tokens)).unflatten(-1, (3, 4, 8))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (n, 4, 36, 8)
        attended = F.scaled_dot_product_attention(query, key, value)
        return F.gelu(project_out(attended.transpose(1, 2).flatten(2))).mean(1)


def fingerprint(device: torch.device) -> str:
    """16 hexadecimal digits for the device, after three steps of SGD and three of AdamW.

    The global RNG state stays as it is. Threads and precision are the process's own
    (`momos.compute.device`).
    """
    fused = device.type in ("cpu", "cuda")
    total = hashlib.sha256()
    for make_optimizer in (
        lambda weights: torch.optim.SGD(
            weights, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=fused
        ),
        lambda weights: torch.optim.AdamW(weights, lr=1e-3, fused=fused),
    ):
        for tensor in _trained(make_optimizer, device).state_dict().values():
            total.update(tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _trained(make_optimizer: MakeOptimizer, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ProbeNetwork()
        images, labels = torch.randn(SHAPE), torch.randint(10, SHAPE[:1])
    model = model.to(device).to(memory_format=torch.channels_last)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    labels = labels.to(device)
    optimizer = make_optimizer(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model
