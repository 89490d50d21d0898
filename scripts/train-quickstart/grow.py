"""Starts a larger model from the bundled one, so that a short training suffices."""

import math
from pathlib import Path

import gguf
import torch

from export import tensor_name
from model import Llama


@torch.no_grad()
def grow(model: Llama, start: Path) -> list[str]:
    """Copies the weights of a smaller model, and returns the names of the parameters that keep their random values.

    A smaller matrix fills the first rows and columns of a larger one, and the smaller model's heads and channels are the first
    ones of the larger. The rest keeps its random values. Those are small, so the larger model begins about where the smaller one
    ended. A parameter that the smaller model lacks keeps all of them: experts begin from scratch.
    """
    smaller = {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in gguf.GGUFReader(start).tensors}
    random = []
    for name, parameter in model.named_parameters():
        found = smaller.get(tensor_name(name))
        if found is None:
            random.append(name)
        elif parameter.ndim == 1:
            # The new channels are small, so a norm divides by less: by the mean square over more channels.
            parameter.fill_(found.mean())
            parameter[: len(found)] = found
            parameter *= math.sqrt(len(found) / len(parameter))
        else:
            parameter[tuple(slice(size) for size in found.shape)] = found
    return random
