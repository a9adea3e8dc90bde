"""How a machine rounds: a hash that two machines share if they give the same bytes for the same
training.

Processors sum in an order that suits their registers and caches, libraries pick kernels by what
they find, and training amplifies the last bit. Names of processors do not tell (two kinds call
themselves "AMD EPYC"), so a small network is trained and its weights are hashed.
"""

import hashlib

import torch
from torch import nn
from torch.nn import functional as F

SHAPE = (64, 3, 16, 16)  # of the images
STEPS = 3


class Network(nn.Module):
    """The operations that the pipeline's models are made of."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        )
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
        x = x.flatten(2).transpose(1, 2)  # (n, 36, 32)
        query, key, value = (
            self.attention[1](self.attention[0](x)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        )
        x = F.gelu(
            self.attention[2](
                F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
            )
        ).mean(1)
        y = images.flatten(1)
        for layer in self.hidden:
            y = F.gelu(layer(y))
        return self.last(x + y)


def fingerprint(device: torch.device) -> str:
    """16 hexadecimal digits. The global RNG state stays as it is; threads and precision are the
    process's own (`momos.compute.device`).
    """
    total = hashlib.sha256()
    for make in (
        lambda weights: torch.optim.SGD(
            weights, lr=0.1, momentum=0.9, weight_decay=1e-4, fused=device.type in ("cpu", "cuda")
        ),
        lambda weights: torch.optim.AdamW(weights, lr=1e-3, fused=device.type in ("cpu", "cuda")),
    ):
        for tensor in _trained(make, device).state_dict().values():
            total.update(tensor.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def _trained(make_optimizer, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Network()
        images, labels = torch.randn(SHAPE), torch.randint(10, SHAPE[:1])
    model = model.to(device, memory_format=torch.channels_last)
    images, labels = (
        images.to(device).contiguous(memory_format=torch.channels_last),
        labels.to(device),
    )
    optimizer = make_optimizer(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model
