"""Our networks in PyTorch with MONAI's blocks: the peer that `train_step.py --peer torch` runs beside ours.

The same layers under the same names, so that `take` copies a Keras network's weights and both give the same
numbers (`tests/benchmarks`); parameters and multiplications are counted on both sides. Each network
reads as its file in `tfbrats/networks`. Layers are made by the first call, which `build` does.

MONAI's `Convolution` (convolution-norm-activation, also transposed) and `ADN` (norm-activation) fit; its U-Nets
and its ASPP have other layers than the papers', so they do not.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from monai.networks.blocks import ADN, Convolution
from torch import nn

_NORM = ("batch", {"eps": 1e-5, "momentum": 0.1})  # Keras' momentum of 0.9
_RELU = ("relu", {"inplace": True})
_RATES = (1, 2, 4, 8)  # of the pyramid


class Network(nn.Module):
    """A network of named layers, channels behind the image in memory (channels_last).

    Args:
        body: (network, image) -> {output: logits}.
        dimensions: 2 or 3.

    Attributes:
        all_heads: False leaves out what only training needs, as ours does in inference.
    """

    all_heads = True

    def __init__(self, body: Callable, dimensions: int):
        super().__init__()
        self._body, self._dimensions = body, dimensions
        self.layers = nn.ModuleDict()

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """[N, M, H, W] or [N, M, S, S, S] -> {output: [N, C, ...]}, float32."""
        return self._body(self, image)

    def _layer(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        if name not in self.layers:
            self.layers[name] = make()
        return self.layers[name]

    def _convolution(self, x, filters: int, name: str, size: int = 1, stride: int = 0, **options):
        """Transposed where there is a stride."""
        options = {"kernel_size": size, "conv_only": True, **options}
        if stride:
            upwards = {"is_transposed": True, "kernel_size": stride, "strides": stride}
            options |= upwards | {"padding": 0, "output_padding": 0}
        make = lambda: Convolution(self._dimensions, x.shape[1], filters, **options)  # noqa: E731
        return self._layer(name, make)(x)

    def conv_norm_relu(self, x, filters: int, name: str, rate: int = 1):
        options = {"conv_only": False, "adn_ordering": "NA", "act": _RELU, "norm": _NORM}
        return self._convolution(x, filters, name, 3, dilation=rate, **options)

    def pair(self, x, filters: int, name: str):
        return self.conv_norm_relu(self.conv_norm_relu(x, filters, f"{name}_1"), filters, f"{name}_2")

    def pool(self, x):
        pool = nn.functional.max_pool2d if self._dimensions == 2 else nn.functional.max_pool3d
        return pool(x, 2)

    def deconv(self, x, filters: int, name: str, stride: int = 2):
        return self._convolution(x, filters, name, stride=stride)

    def norm_relu(self, x, name: str):
        make = lambda: ADN("NA", x.shape[1], _RELU, _NORM, self._dimensions)  # noqa: E731
        return self._layer(name, make)(x)

    def residual(self, x, filters: int, name: str, leading_norm: bool = True):
        shortcut = self._convolution(x, filters, f"{name}_shortcut")
        if leading_norm:
            x = self.norm_relu(x, f"{name}_bn1")
        x = self._convolution(x, filters, f"{name}_conv1", 3)
        x = self._convolution(self.norm_relu(x, f"{name}_bn2"), filters, f"{name}_conv2", 3)
        return x + shortcut

    def head(self, x, classes: int, name: str):
        with torch.autocast("cpu", enabled=False):  # float32 whatever the rest, as ours
            return self._convolution(x.float(), classes, f"{name}_conv")


def concat(*tensors):
    return torch.cat(tensors, 1)


# --- the networks ----------------------------------------------------------------------------------------


def _cun(width: int) -> Callable:
    c1, c2, c3, c4, c5 = (width * 2**level for level in range(5))

    def body(net: Network, image):
        pool, deconv, residual = net.pool, net.deconv, net.residual
        e1 = residual(image, c1, "e1", leading_norm=False)
        e2 = residual(pool(e1), c2, "e2")
        e3 = residual(pool(e2), c3, "e3")
        e4 = residual(pool(e3), c4, "e4")
        e5 = residual(pool(e4), c5, "e5")
        d4 = residual(concat(deconv(e5, c4, "d4_up"), e4), c4, "d4")
        d3 = residual(concat(deconv(d4, c3, "d3_up"), e3), c3, "d3")
        d2 = residual(concat(deconv(d3, c2, "d2_up"), e2), c2, "d2")
        d1 = residual(concat(deconv(d2, c1, "d1_up"), e1), c1, "d1")

        f1 = residual(d1, c1, "f1")
        f2 = residual(concat(pool(f1), d2), c2, "f2")
        f3 = residual(concat(pool(f2), d3), c3, "f3")
        f4 = residual(concat(pool(f3), d4), c4, "f4")
        f5 = residual(concat(pool(f4), e5), c5, "f5")
        g4 = residual(concat(deconv(f5, c4, "g4_up"), f4), c4, "g4")
        g3 = residual(concat(deconv(g4, c3, "g3_up"), f3), c3, "g3")
        g2 = residual(concat(deconv(g3, c2, "g2_up"), f2), c2, "g2")
        g1 = residual(concat(deconv(g2, c1, "g1_up"), f1), c1, "g1")

        outputs = {
            "branch1_logits": net.head(d1, 2, "branch1_logits"),
            "branch2_logits": net.head(g1, 4, "branch2_logits"),
        }
        if not net.all_heads:
            return outputs
        deep = ((e5, 16), (d4, 8), (d3, 4), (d2, 2), (f5, 16), (g4, 8), (g3, 4), (g2, 2))
        for number, (features, stride) in enumerate(deep, start=1):
            name = f"aux{number}_logits"
            raised = deconv(features, 16, f"{name}_deconv", stride)
            outputs[name] = net.head(raised, 2 if number <= 4 else 4, name)
        return outputs

    return body


def _unet2d(width: int) -> Callable:
    c1, c2, c3, c4, c5 = (width * 2**level for level in range(5))

    def body(net: Network, image):
        pool, deconv, pair = net.pool, net.deconv, net.pair
        e1 = pair(image, c1, "e1")
        e2 = pair(pool(e1), c2, "e2")
        e3 = pair(pool(e2), c3, "e3")
        e4 = pair(pool(e3), c4, "e4")
        e5 = pair(pool(e4), c5, "e5")
        d4 = pair(concat(deconv(e5, c4, "d4_up"), e4), c4, "d4")
        d3 = pair(concat(deconv(d4, c3, "d3_up"), e3), c3, "d3")
        d2 = pair(concat(deconv(d3, c2, "d2_up"), e2), c2, "d2")
        d1 = pair(concat(deconv(d2, c1, "d1_up"), e1), c1, "d1")
        return {"logits": net.head(d1, 4, "logits")}

    return body


def _unet3d(b: int) -> Callable:
    def body(net: Network, patch):
        pool, deconv, pair = net.pool, net.deconv, net.pair
        e1 = pair(patch, b, "e1")
        e2 = pair(pool(e1), 2 * b, "e2")
        e3 = pair(pool(e2), 4 * b, "e3")
        e4 = pair(pool(e3), 8 * b, "e4")
        d3 = pair(concat(deconv(e4, 4 * b, "d3_up"), e3), 4 * b, "d3")
        d2 = pair(concat(deconv(d3, 2 * b, "d2_up"), e2), 2 * b, "d2")
        d1 = pair(concat(deconv(d2, b, "d1_up"), e1), b, "d1")
        return {"logits": net.head(d1, 1, "logits")}

    return body


def _pyramid(net: Network, x, filters: int, aspp: bool):
    if not aspp:
        return net.conv_norm_relu(x, filters, "bridge")
    return concat(*(net.conv_norm_relu(x, filters // 4, f"aspp_rate{rate}", rate) for rate in _RATES))


def _msm(b: int, aspp: bool = True) -> Callable:
    """WT and TC."""

    def body(net: Network, patch):
        e1 = net.pair(patch, b, "e1")
        e2 = net.pair(net.pool(e1), 2 * b, "e2")
        e3 = net.conv_norm_relu(net.pool(e2), 4 * b, "e3")
        scales = _pyramid(net, e3, 4 * b, aspp)
        d2 = net.pair(concat(net.deconv(scales, 2 * b, "d2_up"), e2), 2 * b, "d2")
        d1 = net.pair(concat(net.deconv(d2, b, "d1_up"), e1), b, "d1")
        return {"logits": net.head(d1, 1, "logits")}

    return body


def _msm_et(b: int, aspp: bool = True) -> Callable:
    def body(net: Network, patch):
        e1 = net.pair(patch, b, "e1")
        e2 = net.pair(e1, b, "e2")
        e3 = net.conv_norm_relu(net.pool(e2), 2 * b, "e3")
        scales = _pyramid(net, e3, 2 * b, aspp)
        d2 = net.pair(concat(net.deconv(scales, b, "d2_up"), e2), b, "d2")
        d1 = net.pair(concat(d2, e1), b, "d1")
        return {"logits": net.head(d1, 1, "logits")}

    return body


# name: body, dimensions, channels of the image
NETWORKS = {
    "cun": (_cun, 2, 4),
    "unet2d": (_unet2d, 2, 4),
    "msm": (_msm, 3, 12),
    "msm_et": (_msm_et, 3, 12),
    "msm_noaspp": (lambda b: _msm(b, aspp=False), 3, 12),
    "unet3d": (_unet3d, 3, 4),
}


def build(name: str, width: int) -> Network:
    """A network as ours of that name, in training mode and in channels_last."""
    body, dimensions, channels = NETWORKS[name]
    network = Network(body(width), dimensions)
    with torch.no_grad():
        network(torch.zeros(2, channels, *(32,) * dimensions))  # makes the layers
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    return network.to(memory_format=channels_last(dimensions))


def channels_last(dimensions: int) -> torch.memory_format:
    return torch.channels_last if dimensions == 2 else torch.channels_last_3d


def from_ours(image: np.ndarray) -> torch.Tensor:
    """[N, ..., M] -> [N, M, ...] in the same memory."""
    return torch.from_numpy(image).movedim(-1, 1)


# --- the same weights ------------------------------------------------------------------------------------


def take(network: Network, weights: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Copies a Keras network's weights, by layer name, as `layer.get_weights()` gives them.

    Raises:
        KeyError: a layer is missing on either side.
    """
    ours = dict(weights)
    for name, module in network.layers.items():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                own = ours.pop(name if name in ours else f"{name}_bn")
                _fill((part.weight, part.bias, part.running_mean, part.running_var), own)
            elif hasattr(part, "kernel_size"):
                kernel, bias = ours.pop(name if name in ours else f"{name}_conv")
                # (taps, in, out) -> (out, in, taps); a transposed one (taps, out, in) -> (in, out, taps).
                _fill((part.weight, part.bias), (np.moveaxis(kernel, (-1, -2), (0, 1)), bias))
    if ours:
        raise KeyError(f"no such layers in PyTorch: {', '.join(ours)}")


def _fill(tensors: Sequence[torch.Tensor], arrays: Sequence[np.ndarray]) -> None:
    with torch.no_grad():
        for tensor, array in zip(tensors, arrays, strict=True):
            if tuple(tensor.shape) != array.shape:
                raise ValueError(f"shapes {tuple(tensor.shape)} and {array.shape}")
            tensor.copy_(torch.from_numpy(np.array(array)))


# --- the same training -----------------------------------------------------------------------------------


def loss(batch: Mapping[str, np.ndarray], omega: float) -> Callable:
    """Outputs -> loss of a batch whose examples and pixels all count alike, without the weight decay."""
    functional = nn.functional
    if "target" in batch:
        target = torch.from_numpy(batch["target"].astype(np.float32))
        return lambda outputs: functional.binary_cross_entropy_with_logits(outputs["logits"][:, 0], target)
    parts = torch.from_numpy(batch["label"].astype(np.int64))
    whole = (parts > 0).long()

    def of_slices(outputs):
        each = {
            name: functional.cross_entropy(logits, whole if logits.shape[1] == 2 else parts)
            for name, logits in outputs.items()
        }
        return sum(value * (omega if name.startswith("aux") else 1) for name, value in each.items())

    return of_slices


def optimizer(network: Network, train) -> torch.optim.Optimizer:
    """Adam or SGD as the config's `train` says; kernels alone decay."""
    if hasattr(train, "beta1"):
        rates = train.learning_rate, (train.beta1, train.beta2)
        return torch.optim.Adam(network.parameters(), *rates, fused=True)
    kernels = _kernels(network)
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": train.weight_decay}, {"params": others}]
    return torch.optim.SGD(groups, train.learning_rate, train.momentum, fused=True)


def decay(network: Network, train) -> float:
    """The loss's term of the weight decay, which the optimizer knows by its gradient alone; 0 without one."""
    squares = sum(float(kernel.detach().square().sum()) for kernel in _kernels(network))
    return 0.5 * getattr(train, "weight_decay", 0.0) * squares


def _kernels(network: Network) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.ndim > 1]


# --- the same size ---------------------------------------------------------------------------------------


def parameters(network: nn.Module) -> int:
    """Moving moments included, as Keras counts."""
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    return sum(tensor.numel() for tensor in state.values())


def macs(network: Network, shape: Sequence[int]) -> int:
    """Multiplications of all convolutions in one forward pass of an image [N, M, ...]."""
    counts, hooks = [], []

    def count(module, inputs, output):
        places = inputs[0] if module.transposed else output
        counts.append(module.weight.numel() * places.shape[0] * math.prod(places.shape[2:]))

    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            hooks.append(module.register_forward_hook(count))
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(*shape))
    network.train(training)
    for hook in hooks:
        hook.remove()
    return sum(counts)
