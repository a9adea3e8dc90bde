"""Image classifiers by name: those of the paper, and any timm model (method A9)."""

import difflib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# timm's names of models in the paper; which MobileViT is meant there is an assumption
TIMM_NAMES = {"tiny_vit": "tiny_vit_5m_224", "mobilevit": "mobilevit_s"}
# What timm and torch raise when they are called with settings that make no sense to them
ARGUMENT_ERRORS = (
    TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError,
    RuntimeError, OSError,
)  # fmt: skip


def build(
    name: str,
    num_classes: int,
    *,
    seed: int = 0,
    in_channels: int = 3,
    image_size: int = 32,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A new model on the CPU, with initial weights from the seed; the global RNG state stays.

    name: mlp, resnet20, tiny_vit, mobilevit, or a timm architecture. image_size: height and width
    in pixels. kwargs: for the architecture's constructor.

    Raises ValueError for an unknown name, and for kwargs that the architecture does not take.
    """
    kwargs = dict(kwargs or {})
    _check_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            if name == "mlp":
                return MLP(num_classes, in_features=in_channels * image_size**2, **kwargs)
            if name == "resnet20":
                return ResNet20(num_classes, in_channels=in_channels, **kwargs)
            return _build_timm(
                TIMM_NAMES.get(name, name), num_classes, in_channels, image_size, kwargs
            )
        except ARGUMENT_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"models.{name}.kwargs: {name} does not take {kwargs!r} ({reason})"
            ) from error


def check_forward(model: nn.Module, *, num_classes: int, in_channels: int, image_size: int) -> None:
    """Raise ValueError unless the model gives (n, num_classes) scores for n images of this size.

    The model's own mode and buffers stay as they are.
    """
    images, was_training = torch.zeros(2, in_channels, image_size, image_size), model.training
    model.eval()
    try:
        with torch.no_grad():
            shape = getattr(model(images), "shape", None)
    except ARGUMENT_ERRORS as error:
        raise ValueError(
            f"it can't read {in_channels} x {image_size} x {image_size} images "
            f"({type(error).__name__}: {error}); see image_size and kwargs"
        ) from error
    finally:
        model.train(was_training)
    if shape != (2, num_classes):
        got = "no tensor" if shape is None else f"shape {tuple(shape)}"
        raise ValueError(f"it must give (2, {num_classes}) scores for two images, got {got}")


def restore(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """The model that run.json (`about`) describes, with the weights `state`.

    Raises ValueError naming the architecture if they do not fit.
    """
    shape = {key: about[key] for key in ("num_classes", "in_channels", "image_size")}
    model = build(about["arch"], kwargs=about["arch_kwargs"], **shape)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"weights do not fit {about['arch']} as run.json describes it: {error}"
        ) from error
    return model


def _check_name(name: str) -> None:
    """Raises ValueError for an architecture that nobody knows."""
    if name in ("mlp", "resnet20", *TIMM_NAMES):
        return
    import timm  # takes seconds to import

    if not timm.is_model(name):
        names = ["mlp", "resnet20", *TIMM_NAMES, *timm.list_models()]
        close = ", ".join(difflib.get_close_matches(name, names, n=3)) or "none is close"
        raise ValueError(
            f"models: unknown architecture {name!r}; expected mlp, resnet20, tiny_vit, mobilevit "
            f"or a timm name ({close})"
        )


def _build_timm(
    name: str, num_classes: int, in_channels: int, image_size: int, kwargs: dict
) -> nn.Module:
    import timm  # takes seconds to import

    fixed = (timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).fixed_input_size
    if fixed:  # positional tables are sized at construction
        kwargs.setdefault("img_size", image_size)
    return timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **kwargs
    )


class MLP(nn.Module):
    """Hidden layers of equal width with ReLU, on flattened images.

    The paper has five layers of 256, the authors' code four.
    """

    def __init__(
        self, num_classes: int, *, in_features: int, hidden_layers: int = 5, width: int = 256
    ):
        super().__init__()
        if hidden_layers < 0 or width < 1:
            raise ValueError(
                "hidden_layers must be 0 or more and width 1 or more, "
                f"got {hidden_layers} and {width}"
            )
        widths = [in_features, *[width] * hidden_layers]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.linear = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) -> (n, num_classes)"""
        x = images.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x), inplace=True)
        return self.linear(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (He et al. 2016, option A).

    The shortcut takes every stride-th pixel, and pads missing channels with zeros.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        padding = (0, 0, 0, 0, self.added // 2, self.added - self.added // 2)
        strided = x[:, :, :: self.stride, :: self.stride]
        shortcut = F.pad(strided, padding) if self.added else x
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)).add_(shortcut), inplace=True)


class ResNet20(nn.Module):
    """The CIFAR ResNet of He et al. (2016), Sec. 4.2.

    It has 269,722 parameters at 3 channels and 10 classes.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, width = [], 16
        for channels in (16, 32, 64):
            for _ in range(3):
                blocks.append(BasicBlock(width, channels, stride=channels // width))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(n, in_channels, height, width) -> (n, num_classes)"""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return self.linear(self.blocks(x).mean((2, 3)))
