"""Starts a larger model from the bundled one, so that a short training suffices."""

import math
from pathlib import Path

import gguf
import torch
from torch import Tensor

from export import tensor_name
from model import Experts, Llama


@torch.no_grad()
def grow(model: Llama, start: Path) -> list[str]:
    """Copies the weights of a smaller model, and returns the names of the parameters that keep their random values.

    A smaller matrix fills the first rows and columns of a larger one, and the smaller model's heads and channels are the first
    ones of the larger. The rest keeps its random values. Those are small, so the larger model begins about where the smaller one
    ended.
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
    for block, layer in enumerate(model.blocks):
        if isinstance(layer.ffn, Experts):
            gate, up, down = (smaller[f"blk.{block}.ffn_{part}.weight"] for part in ("gate", "up", "down"))
            split(layer.ffn, gate, up, down)
    return [name for name in random if "_exps" not in name]


def split(experts: Experts, gate: Tensor, up: Tensor, down: Tensor) -> None:
    """Gives each expert a random part of a feed-forward network's rows, beside the random values that it has.

    The weights of a token's experts sum to 1, so an expert's product is scaled as if it were that of the whole network.
    """
    width, whole = experts.config.n_ff, len(gate)
    for expert in range(experts.config.n_expert):
        rows = torch.randperm(whole)[:width]
        experts.gate_exps[expert] += gate[rows]
        experts.up_exps[expert] += up[rows]
        experts.down_exps[expert] += down[:, rows] * (whole / width)
