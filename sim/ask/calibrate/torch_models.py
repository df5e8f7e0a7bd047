"""The small models as PyTorch modules, written as tutorials write them.

PyTorch is handed in, since it is optional. Public: `network_of`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from sim.metrics.calibration import SmallModel


def network_of(torch: Any, model: SmallModel) -> tuple[Any, Any, Any]:
    """A module, its inputs and the classes that it should tell, one for each sample or token."""
    make = _dense if model.sequence_length is None else _transformer
    return make(torch, model)


def _dense(torch: Any, model: SmallModel) -> tuple[Any, Any, Any]:
    said, nn = model.workload, torch.nn
    widths = (said["inputs"], *said["hidden"])
    layers: list[Any] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], said["outputs"]))
    return network, torch.randn(model.batch, said["inputs"]), torch.randint(said["outputs"], (model.batch,))


def _transformer(torch: Any, model: SmallModel) -> tuple[Any, Any, Any]:
    said, nn, functional = model.workload, torch.nn, torch.nn.functional
    width, heads, length = said["hidden"], said["heads"], model.sequence_length

    class Layer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
            self.up, self.down = nn.Linear(width, said["ffn"]), nn.Linear(said["ffn"], width)

        def forward(self, x: Any) -> Any:
            y, shape = self.before(x), (*x.shape[:2], heads, width // heads)
            parts = (part(y).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
            mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
            return x + self.down(functional.gelu(self.up(self.between(x))))

    class TinyDecoder(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(said["vocab"], width), nn.Embedding(length, width)
            self.layers = nn.Sequential(*(Layer() for _ in range(said["layers"])))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, said["vocab"], bias=False)

        def forward(self, words: Any) -> Any:
            x = self.words(words) + self.places.weight
            return self.head(self.norm(self.layers(x)))

    words, targets = (torch.randint(said["vocab"], (model.batch, length)) for _ in range(2))
    return TinyDecoder(), words, targets.flatten()
