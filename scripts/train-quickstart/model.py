"""A small llama: RMSNorm, rotary grouped-query attention, SwiGLU, untied output; with experts if asked for."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    """Every matrix's input width (n_embd, n_ff) is a multiple of 256, the K-quants' block."""

    n_vocab: int = 2048
    n_ctx: int = 512
    n_embd: int = 256
    n_ff: int = 768
    n_layer: int = 4
    n_head: int = 4
    n_head_kv: int = 2
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    # Experts of a layer and experts per token; 0: one feed-forward network per layer. n_ff is the width of one expert.
    n_expert: int = 0
    n_expert_used: int = 0

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def rotations(config: Config) -> Tensor:
    """[n_ctx, 1, head_dim / 2] unit complex numbers."""
    pair = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    frequency = config.rope_theta ** (-pair / config.head_dim)
    angle = torch.outer(torch.arange(config.n_ctx, dtype=torch.float32), frequency)
    return torch.polar(torch.ones_like(angle), angle).unsqueeze(1)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotates neighbouring pairs, as GGML_ROPE_TYPE_NORMAL does: no permutation on export."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation[: x.shape[1]]).flatten(-2)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        width, width_kv = config.n_head * config.head_dim, config.n_head_kv * config.head_dim
        self.config = config
        self.q = nn.Linear(config.n_embd, width, bias=False)
        self.k = nn.Linear(config.n_embd, width_kv, bias=False)
        self.v = nn.Linear(config.n_embd, width_kv, bias=False)
        self.output = nn.Linear(width, config.n_embd, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        heads = (-1, self.config.head_dim)
        q = rotate(self.q(x).unflatten(-1, heads), rotation)
        k = rotate(self.k(x).unflatten(-1, heads), rotation)
        v = self.v(x).unflatten(-1, heads)
        group = self.config.n_head // self.config.n_head_kv
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = nn.Linear(config.n_embd, config.n_ff, bias=False)
        self.up = nn.Linear(config.n_embd, config.n_ff, bias=False)
        self.down = nn.Linear(config.n_ff, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """Routes as llama.cpp's `llama`: softmax over all experts, the largest ones, their weights scaled to sum 1."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.gate_inp = nn.Linear(config.n_embd, config.n_expert, bias=False)
        self.gate_exps = nn.Parameter(torch.empty(config.n_expert, config.n_ff, config.n_embd))
        self.up_exps = nn.Parameter(torch.empty(config.n_expert, config.n_ff, config.n_embd))
        self.down_exps = nn.Parameter(torch.empty(config.n_expert, config.n_embd, config.n_ff))
        # Of the last forward pass: the loss that keeps experts from dying, and the tokens of each expert.
        self.balance = torch.zeros(())
        self.counts = torch.zeros(config.n_expert, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        rows, used = x.flatten(0, -2), self.config.n_expert_used
        probabilities = self.gate_inp(rows).softmax(-1)
        weights, experts = probabilities.topk(used, -1)
        weights = weights / weights.sum(-1, keepdim=True)

        # One matrix product per expert, over the rows that chose it.
        chosen = experts.flatten()
        order = chosen.argsort(stable=True)
        self.counts = chosen.bincount(minlength=self.config.n_expert)
        inputs = rows.index_select(0, order // used).split(self.counts.tolist())
        # `unbind` and not an index: the gradient of an index is as large as all experts.
        matrices = zip(self.gate_exps.unbind(), self.up_exps.unbind(), self.down_exps.unbind())
        products = [
            F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)
            for rows, (gate, up, down) in zip(inputs, matrices)
        ]
        products = torch.cat(products).index_select(0, order.argsort()).unflatten(0, (-1, used))

        # 1 if all experts are used equally (Switch Transformers, equation 4).
        share = self.counts / chosen.numel()
        self.balance = self.config.n_expert * (share * probabilities.mean(0)).sum()
        return (products * weights.unsqueeze(-1)).sum(-2).view_as(x)


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.ffn = Experts(config) if config.n_expert else FeedForward(config)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotation)
        return x + self.ffn(self.ffn_norm(x))


class Llama(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.output_norm = nn.RMSNorm(config.n_embd, eps=config.norm_eps)
        self.output = nn.Linear(config.n_embd, config.n_vocab, bias=False)
        self.register_buffer("rotation", rotations(config), persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                nn.init.normal_(parameter, std=0.02)
            # What is added to the residual stream starts smaller, 2 terms a layer (GPT-2).
            if name.endswith(("attn.output.weight", "ffn.down.weight", "ffn.down_exps")):
                parameter.data /= (2 * self.config.n_layer) ** 0.5

    def forward(self, tokens: Tensor) -> Tensor:
        """[sequences, positions] token ids to [sequences, positions, n_vocab] logits."""
        x = self.token_embd(tokens)
        for block in self.blocks:
            x = block(x, self.rotation)
        return self.output(self.output_norm(x))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy, in nats per token."""
        return F.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    def experts(self) -> list[Experts]:
        return [block.ffn for block in self.blocks if isinstance(block.ffn, Experts)]
