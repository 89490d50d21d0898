#!/usr/bin/env python3
"""Compares a lens file with a forward pass in numpy over the same weights, without llama.cpp.

usage: check_lens.py MODEL.gguf TEXT LENS.json

The model is a llama with a byte-level BPE. LENS.json comes from a run that measured every position of every chunk
(--lens-tokens as large as -c). Prints the largest difference of each kind of number, and fails if one is above 1e-3.
"""

import json
import sys

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

TOLERANCE = 1e-3


class Model:
    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.fields = reader.fields
        self.weights = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors
        }
        assert self.field("general.architecture") == "llama", "the check knows llamas only"
        self.n_layer = self.field("llama.block_count")
        self.n_head = self.field("llama.attention.head_count")
        self.n_head_kv = self.field("llama.attention.head_count_kv")
        self.eps = self.field("llama.attention.layer_norm_rms_epsilon")
        self.base = self.field("llama.rope.freq_base")

    def field(self, key):
        return self.fields[key].contents()

    def tokenizer(self):
        tokens, merges = self.field("tokenizer.ggml.tokens"), self.field("tokenizer.ggml.merges")
        vocab = {token: i for i, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in merges]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return tokenizer

    def rms(self, x):
        return 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + self.eps)

    def norm(self, x, weight):
        return (x * self.rms(x) * self.weights[weight]).astype(np.float32)

    def rotate(self, x):
        """x: [tokens, heads, size]; neighbouring pairs are turned."""
        n, _, size = x.shape
        angle = np.outer(np.arange(n), self.base ** (-np.arange(0, size, 2) / size))
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape).astype(np.float32)

    def attention(self, x, layer):
        w = {name: self.weights[f"blk.{layer}.attn_{name}.weight"] for name in ("q", "k", "v", "output")}
        n = len(x)
        q = self.rotate((x @ w["q"].T).reshape(n, self.n_head, -1))
        k = self.rotate((x @ w["k"].T).reshape(n, self.n_head_kv, -1))
        v = (x @ w["v"].T).reshape(n, self.n_head_kv, -1)
        k, v = (np.repeat(t, self.n_head // self.n_head_kv, axis=1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1) @ w["output"].T

    def feed_forward(self, x, layer):
        gate, up, down = (self.weights[f"blk.{layer}.ffn_{name}.weight"] for name in ("gate", "up", "down"))
        gate = x @ gate.T
        return (gate / (1 + np.exp(-gate)) * (x @ up.T)) @ down.T

    def parts(self, tokens):
        """The terms of the residual stream: embedding, then attention and feed-forward of each layer."""
        parts = [self.weights["token_embd.weight"][tokens]]
        stream = parts[0]
        for layer in range(self.n_layer):
            parts.append(self.attention(self.norm(stream, f"blk.{layer}.attn_norm.weight"), layer))
            stream = stream + parts[-1]
            parts.append(self.feed_forward(self.norm(stream, f"blk.{layer}.ffn_norm.weight"), layer))
            stream = stream + parts[-1]
        return [part.astype(np.float64) for part in parts]

    def log_softmax(self, stream):
        logits = (self.norm(stream, "output_norm.weight") @ self.weights["output.weight"].T).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cosine(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def of_chunk(model, tokens):
    """What a lens file sums up, a value a position."""
    targets, parts = tokens[1:], [part[:-1] for part in model.parts(tokens)]
    states = np.cumsum(parts, 0)
    found = {}
    final = model.log_softmax(states[-1])
    for layer in range(-1, model.n_layer):
        log_q = model.log_softmax(states[2 * layer + 2])
        found["lens", layer, "kl"] = (np.exp(final) * (final - log_q)).sum(-1)
        found["lens", layer, "top1"] = (final.argmax(-1) == log_q.argmax(-1)).astype(float)
        found["lens", layer, "nll"] = -log_q[np.arange(len(targets)), targets]
        if layer >= 0:
            before, between, after = states[2 * layer : 2 * layer + 3]
            found["similarity", layer, "whole"] = cosine(before, after)
            found["similarity", layer, "attention"] = cosine(before, between)
            found["similarity", layer, "feed_forward"] = cosine(between, after)
    scale = model.rms(states[-1]) * model.weights["output_norm.weight"]
    output = model.weights["output.weight"].astype(np.float64)
    for at, part in enumerate(parts):
        place = ("embedding", None) if at == 0 else (("feed_forward", "attention")[at % 2], (at - 1) // 2)
        raw = (part * scale * output[targets]).sum(-1)
        found["prism", place, "raw"] = raw
        found["prism", place, "relative"] = raw - (part * scale) @ output.mean(0)
    return found


def main(model, text, lens):
    with open(lens, encoding="utf-8") as file:
        lens = json.load(file)
    with open(text, encoding="utf-8", newline="") as file:
        text = file.read().removesuffix("\n")
    model = Model(model)
    positions = lens["positions"]
    n_ctx, n_chunks = positions["chunk_size"], positions["chunks"]
    assert positions["sampled"] == n_chunks * (n_ctx - 1), "not every position was looked at"
    bos = model.field("tokenizer.ggml.bos_token_id")
    # A text that is long enough for the chunks: all of it takes a while.
    ids = model.tokenizer().encode(text[: 16 * n_ctx * n_chunks]).ids
    tokens = np.array([bos, *ids])[: n_ctx * n_chunks].reshape(n_chunks, n_ctx).copy()
    tokens[:, 0] = bos
    found = [of_chunk(model, chunk) for chunk in tokens]
    found = {key: np.concatenate([chunk[key] for chunk in found]) for key in found[0]}

    differences = {}

    def compare(kind, ours, theirs):
        difference = abs(ours - theirs) / max(1.0, abs(theirs))
        differences.setdefault(kind, []).append(difference if np.isfinite(difference) else np.inf)

    def compare_spread(kind, values, spread):
        compare(f"{kind}, mean", values.mean(), spread["mean"])
        for q in (5, 25, 50, 75, 95):
            compare(f"{kind}, quantiles", np.quantile(values, q / 100), spread[f"p{q}"])

    before = None
    for layer, point in [(-1, lens["lens"]["embedding"]), *((p["layer"], p) for p in lens["lens"]["layers"])]:
        kl = found["lens", layer, "kl"]
        compare_spread("lens: KL", kl, point["kl"])
        if before is not None:
            compare("lens: reduction", before - kl.mean(), point["kl_reduction"])
        before = kl.mean()
        compare("lens: top-1 agreement", found["lens", layer, "top1"].mean(), point["top1_agreement"])
        compare("lens: NLL", found["lens", layer, "nll"].mean(), point["target_nll"])
    assert len(lens["lens"]["layers"]) == model.n_layer
    parts = {(p["part"], p["layer"]): p for p in lens["prism"]["parts"]}
    for kind in ("raw", "relative"):
        of_kind = {key[1]: values for key, values in found.items() if key[0] == "prism" and key[2] == kind}
        total = sum(np.abs(values).mean() for values in of_kind.values())
        for place, values in of_kind.items():
            part = parts[place][kind]
            compare(f"prism: {kind}, mean", values.mean(), part["mean"])
            compare(f"prism: {kind}, absolute", np.abs(values).mean(), part["mean_abs"])
            compare(f"prism: {kind}, share", np.abs(values).mean() / total, part["share"])
    for layer in lens["similarity"]["layers"]:
        for part in ("whole", "attention", "feed_forward"):
            compare_spread(f"similarity: {part}", found["similarity", layer["layer"], part], layer[part])

    failed = False
    for kind, values in differences.items():
        ok = max(values) <= TOLERANCE
        failed |= not ok
        print(f"{kind:32} {len(values):3} numbers, largest difference {max(values):.1e}{'' if ok else '  FAILED'}")
    print(f"{len(found['lens', 0, 'kl'])} positions; differences are relative above 1, absolute below")
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
