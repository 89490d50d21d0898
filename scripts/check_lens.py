#!/usr/bin/env python3
"""Compares a lens file with a forward pass in numpy over the same weights, without llama.cpp.

usage: check_lens.py MODEL.gguf TEXT LENS.json

LENS.json comes from a run that measured every position of every chunk (--lens-tokens as large as -c). The model is one of
ARCHITECTURES: a llama, or a small test model with shared experts and MLA (deepseek2), norms after its blocks and soft caps
(gemma2), a parallel block (command-r), activation scales (mpt) or a recurrence (mamba). Chunks are as short as gemma2's
window. Prints the largest difference of each kind of number, and fails if one is above 1e-3.
"""

import json
import sys

import gguf
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

TOLERANCE = 1e-3


def silu(x):
    return x / (1 + np.exp(-x))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    """As ggml's: from a table of f16 between -10 and 10."""
    half = x.astype(np.float16).astype(np.float32)
    y = 0.5 * half * (1 + np.tanh(np.sqrt(2 / np.pi) * half * (1 + 0.044715 * half * half)))
    return np.where(abs(x) < 10, y.astype(np.float16).astype(np.float32), np.maximum(x, 0))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


class Model:
    """A llama. The others override what differs."""

    layer_norm = False  # the norm subtracts the mean first
    neighbours = True  # RoPE turns neighbouring pairs, not halves
    parallel = False  # attention and feed-forward network read the same stream
    logit_scale = 1.0
    soft_cap = None

    def __init__(self, reader):
        self.fields = reader.fields
        self.weights = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors
        }
        self.architecture = self.field("general.architecture")
        self.n_layer = self.hparam("block_count")
        self.n_head = self.hparam("attention.head_count")
        self.n_head_kv = self.hparam("attention.head_count_kv", self.n_head)
        self.eps = self.hparam("attention.layer_norm_" + ("epsilon" if self.layer_norm else "rms_epsilon"))
        self.base = self.hparam("rope.freq_base", 10000.0)
        self.output = self.weights.get("output.weight", self.weights["token_embd.weight"])

    def field(self, key):
        return self.fields[key].contents()

    def hparam(self, key, default=None):
        key = f"{self.architecture}.{key}"
        return self.field(key) if default is None or key in self.fields else default

    def weight(self, layer, name):
        return self.weights[f"blk.{layer}.{name}"]

    def linear(self, x, layer, name):
        return x @ self.weight(layer, f"{name}.weight").T

    def tokenize(self, text):
        tokens = self.field("tokenizer.ggml.tokens")
        if self.field("tokenizer.ggml.model") == "gpt2":
            merges = self.field("tokenizer.ggml.merges")
            vocab = {token: i for i, token in enumerate(tokens)}
            tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in merges]))
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            return tokenizer.encode(text).ids
        return sentence_piece(tokens, self.field("tokenizer.ggml.scores"), text)

    def bos(self):
        """The token at the beginning of each chunk, if there is one."""
        adds = self.fields.get("tokenizer.ggml.add_bos_token")
        adds = adds.contents() if adds else self.field("tokenizer.ggml.model") == "llama"
        return self.field("tokenizer.ggml.bos_token_id") if adds else None

    def centered(self, x):
        return x - x.mean(-1, keepdims=True) if self.layer_norm else x

    def rms(self, x):
        """What the norm divides by, inverted."""
        return 1 / np.sqrt((self.centered(x.astype(np.float64)) ** 2).mean(-1, keepdims=True) + self.eps)

    def norm(self, x, weight):
        return (self.centered(x) * self.rms(x) * self.weights[weight]).astype(np.float32)

    def rotate(self, x):
        """x: [tokens, heads, size]."""
        n, _, size = x.shape
        angle = np.outer(np.arange(n), self.base ** (-np.arange(0, size, 2) / size))
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = (x[..., 0::2], x[..., 1::2]) if self.neighbours else np.split(x, 2, -1)
        turned = a * cos - b * sin, a * sin + b * cos
        turned = np.stack(turned, -1).reshape(x.shape) if self.neighbours else np.concatenate(turned, -1)
        return turned.astype(np.float32)

    def attend(self, q, k, v, scale, cap=None):
        """q, k, v: [tokens, heads, size]; returns the mean of v that each token sees, per head."""
        n = len(q)
        # The cache is f16, and llama.cpp multiplies it with queries rounded to f16.
        q, k, v = (t.astype(np.float16).astype(np.float32) for t in (q, k, v))
        k, v = (np.repeat(t, q.shape[1] // t.shape[1], axis=1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * scale
        if cap:
            scores = cap * np.tanh(scores / cap)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        return np.einsum("hqk,khd->qhd", softmax(scores), v)

    def heads(self, x, layer):
        q = self.linear(x, layer, "attn_q").reshape(len(x), self.n_head, -1)
        k, v = (self.linear(x, layer, f"attn_{name}").reshape(len(x), self.n_head_kv, -1) for name in "kv")
        return self.rotate(q), self.rotate(k), v

    def attention(self, stream, layer):
        q, k, v = self.heads(self.norm(stream, f"blk.{layer}.attn_norm.weight"), layer)
        mean = self.attend(q, k, v, 1 / np.sqrt(q.shape[-1]))
        return {"attention": self.linear(mean.reshape(len(stream), -1), layer, "attn_output")}

    def network(self, x, layer, suffix=""):
        hidden = silu(self.linear(x, layer, f"ffn_gate{suffix}")) * self.linear(x, layer, f"ffn_up{suffix}")
        return self.linear(hidden, layer, f"ffn_down{suffix}")

    def feed_forward(self, stream, layer):
        return {"feed_forward": self.network(self.norm(stream, f"blk.{layer}.ffn_norm.weight"), layer)}

    def embed(self, tokens):
        return self.weights["token_embd.weight"][tokens]

    def forward(self, tokens):
        """The terms of the residual stream: (part, layer) -> values; and the streams by place."""
        stream = self.embed(tokens)
        terms, streams = {("embedding", None): stream}, {("after", -1): stream}
        for layer in range(self.n_layer):
            attention = self.attention(stream, layer)
            between = stream + attention["attention"]
            feed_forward = self.feed_forward(stream if self.parallel else between, layer)
            terms |= {(part, layer): value for part, value in (attention | feed_forward).items()}
            if feed_forward and not self.parallel:
                streams["between", layer] = between
            stream = between + feed_forward.get("feed_forward", 0)
            streams["after", layer] = stream
        doubles = lambda values: {key: value.astype(np.float64) for key, value in values.items()}
        return doubles(terms), doubles(streams)

    def logits(self, stream):
        logits = self.norm(stream, "output_norm.weight") @ self.output.T
        logits = logits.astype(np.float64) * self.logit_scale
        return logits if self.soft_cap is None else self.soft_cap * np.tanh(logits / self.soft_cap)

    def log_softmax(self, stream):
        logits = self.logits(stream)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class DeepSeek2(Model):
    """MLA; a dense layer, then routed experts beside a shared one."""

    def attention(self, stream, layer):
        n, rope = len(stream), self.hparam("rope.dimension_count")
        x = self.norm(stream, f"blk.{layer}.attn_norm.weight")
        q = self.norm(self.linear(x, layer, "attn_q_a"), f"blk.{layer}.attn_q_a_norm.weight")
        q = self.linear(q, layer, "attn_q_b").reshape(n, self.n_head, -1)
        size = q.shape[-1]
        compressed = self.linear(x, layer, "attn_kv_a_mqa")
        shared, k_rope = compressed[:, :-rope], self.rotate(compressed[:, None, -rope:])
        shared = self.norm(shared, f"blk.{layer}.attn_kv_a_norm.weight")
        # Per head, the key and the value that the compressed row stands for.
        k = np.einsum("tc,hcn->thn", shared, self.weight(layer, "attn_k_b.weight"))
        v = np.einsum("tc,hvc->thv", shared, self.weight(layer, "attn_v_b.weight"))
        k = np.concatenate([k, np.repeat(k_rope, self.n_head, axis=1)], -1)
        q = np.concatenate([q[..., :-rope], self.rotate(q[..., -rope:])], -1)
        mean = self.attend(q, k, v, 1 / np.sqrt(size))
        return {"attention": self.linear(mean.reshape(n, -1), layer, "attn_output")}

    def feed_forward(self, stream, layer):
        x = self.norm(stream, f"blk.{layer}.ffn_norm.weight")
        if layer < self.hparam("leading_dense_block_count"):
            return {"feed_forward": self.network(x, layer)}
        gates = sigmoid(self.linear(x, layer, "ffn_gate_inp"))
        used = self.hparam("expert_used_count")
        chosen = np.argsort(-(gates + self.weight(layer, "exp_probs_b.bias")), -1, kind="stable")[:, :used]
        weights = np.take_along_axis(gates, chosen, -1)
        weights = weights / weights.sum(-1, keepdims=True) * self.hparam("expert_weights_scale")
        gate, up, down = (self.weight(layer, f"ffn_{name}_exps.weight") for name in ("gate", "up", "down"))
        routed = np.zeros_like(x)
        for token, (experts, of_experts) in enumerate(zip(chosen, weights)):
            for expert, weight in zip(experts, of_experts):
                hidden = silu(gate[expert] @ x[token]) * (up[expert] @ x[token])
                routed[token] += weight * (down[expert] @ hidden)
        shared = self.network(x, layer, "_shexp")
        return {"feed_forward": routed + shared, "routed_experts": routed, "shared_experts": shared}


class Gemma2(Model):
    """Norms after the blocks, soft caps on scores and logits, a scaled embedding, tied."""

    neighbours = False

    def __init__(self, reader):
        super().__init__(reader)
        self.soft_cap = self.hparam("final_logit_softcapping")

    def embed(self, tokens):
        return super().embed(tokens) * np.float32(np.sqrt(self.hparam("embedding_length")))

    def attention(self, stream, layer):
        q, k, v = self.heads(self.norm(stream, f"blk.{layer}.attn_norm.weight"), layer)
        mean = self.attend(q, k, v, 1 / np.sqrt(q.shape[-1]), self.hparam("attn_logit_softcapping"))
        out = self.linear(mean.reshape(len(stream), -1), layer, "attn_output")
        return {"attention": self.norm(out, f"blk.{layer}.post_attention_norm.weight")}

    def network(self, x, layer, suffix=""):
        hidden = gelu(self.linear(x, layer, "ffn_gate")) * self.linear(x, layer, "ffn_up")
        return self.norm(self.linear(hidden, layer, "ffn_down"), f"blk.{layer}.post_ffw_norm.weight")


class CommandR(Model):
    """A parallel block after one layer norm, a scale on the logits, tied."""

    layer_norm = parallel = True

    def __init__(self, reader):
        super().__init__(reader)
        self.logit_scale = self.hparam("logit_scale")

    def feed_forward(self, stream, layer):
        return {"feed_forward": self.network(self.norm(stream, f"blk.{layer}.attn_norm.weight"), layer)}


class Mpt(Model):
    """No positions, one matrix for q, k and v, activation scales, tied."""

    layer_norm = True

    def heads(self, x, layer):
        return np.split(self.linear(x, layer, "attn_qkv").reshape(len(x), 3 * self.n_head, -1), 3, axis=1)

    def network(self, x, layer, suffix=""):
        hidden = gelu(self.linear(x, layer, "ffn_up")) / self.weight(layer, "ffn.act.scales")
        return self.linear(hidden, layer, "ffn_down")


class Mamba(Model):
    """A recurrence in place of attention, and no feed-forward network."""

    def attention(self, stream, layer):
        x = self.norm(stream, f"blk.{layer}.attn_norm.weight")
        x, z = np.split(self.linear(x, layer, "ssm_in"), 2, -1)
        kernel = self.weight(layer, "ssm_conv1d.weight")
        past = np.concatenate([np.zeros((kernel.shape[1] - 1, x.shape[1]), np.float32), x])
        x = sum(past[i : i + len(x)] * kernel[:, i] for i in range(kernel.shape[1]))
        x = silu(x + self.weight(layer, "ssm_conv1d.bias"))
        rank, size = self.hparam("ssm.time_step_rank"), self.hparam("ssm.state_size")
        dt, b, c = np.split(self.linear(x, layer, "ssm_x"), [rank, rank + size], -1)
        dt = np.logaddexp(0, self.linear(dt, layer, "ssm_dt") + self.weight(layer, "ssm_dt.bias"))
        state, out = np.zeros((x.shape[1], size)), []
        for t in range(len(x)):
            state = state * np.exp(dt[t, :, None] * self.weight(layer, "ssm_a")) + np.outer(dt[t] * x[t], b[t])
            out.append(state @ c[t])
        y = (np.array(out) + x * self.weight(layer, "ssm_d")) * silu(z)
        return {"attention": self.linear(y.astype(np.float32), layer, "ssm_out")}

    def feed_forward(self, stream, layer):
        return {}


ARCHITECTURES = {
    "llama": Model,
    "deepseek2": DeepSeek2,
    "gemma2": Gemma2,
    "command-r": CommandR,
    "mpt": Mpt,
    "mamba": Mamba,
}


def sentence_piece(tokens, scores, text):
    """Joins the pair with the best score, the leftmost of equals, until none is a token."""
    ids = {token: i for i, token in enumerate(tokens)}
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(scores[ids[a + b]], -i) for i, (a, b) in enumerate(zip(pieces, pieces[1:])) if a + b in ids]
        if not pairs:
            break
        at = -max(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    as_bytes = lambda piece: [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    return [i for piece in pieces for i in ([ids[piece]] if piece in ids else as_bytes(piece))]


def cosine(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def distance(before, after):
    return np.linalg.norm(after - before, axis=-1) / np.linalg.norm(before, axis=-1)


def of_chunk(model, tokens):
    """What a lens file sums up, a value a position."""
    targets = tokens[1:]
    terms, streams = ({key: value[:-1] for key, value in values.items()} for values in model.forward(tokens))
    last = streams["after", model.n_layer - 1]
    final = model.log_softmax(last)
    found = {}
    for place, stream in streams.items():
        log_q = model.log_softmax(stream)
        found["lens", place, "kl"] = (np.exp(final) * (final - log_q)).sum(-1)
        found["lens", place, "top1"] = (final.argmax(-1) == log_q.argmax(-1)).astype(float)
        found["lens", place, "nll"] = -log_q[np.arange(len(targets)), targets]
    for layer in range(model.n_layer):
        before, after = streams["after", layer - 1], streams["after", layer]
        pairs = {"whole": (before, after), "attention": (before, before + terms["attention", layer])}
        if ("feed_forward", layer) in terms:
            reads = before if model.parallel else pairs["attention"][1]
            pairs["feed_forward"] = (reads, reads + terms["feed_forward", layer])
        for part, pair in pairs.items():
            found["similarity", (layer, part), "cosine"] = cosine(*pair)
            found["similarity", (layer, part), "distance"] = distance(*pair)
    scale = model.rms(last) * model.weights["output_norm.weight"] * model.logit_scale
    output = model.output.astype(np.float64)
    for token, ids in {"next": targets, "likeliest": model.logits(last).argmax(-1)}.items():
        for place, term in terms.items():
            term = model.centered(term) * scale
            raw = (term * output[ids]).sum(-1)
            found["prism", (token, place), "raw"] = raw
            found["prism", (token, place), "relative"] = raw - term @ output.mean(0)
    return found


def main(model, text, lens):
    with open(lens, encoding="utf-8") as file:
        lens = json.load(file)
    with open(text, encoding="utf-8", newline="") as file:
        text = file.read().removesuffix("\n")
    reader = gguf.GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()
    assert architecture in ARCHITECTURES, f"the check does not know {architecture}"
    model = ARCHITECTURES[architecture](reader)
    positions = lens["positions"]
    n_ctx, n_chunks = positions["chunk_size"], positions["chunks"]
    assert positions["sampled"] == n_chunks * (n_ctx - 1), "not every position was looked at"
    bos = model.bos()
    # A text that is long enough for the chunks: all of it takes a while.
    ids = model.tokenize(text[: 16 * n_ctx * n_chunks])
    ids = ids if bos is None else [bos, *ids]
    tokens = np.array(ids)[: n_ctx * n_chunks].reshape(n_chunks, n_ctx).copy()
    if bos is not None:
        tokens[:, 0] = bos
    found = [of_chunk(model, chunk) for chunk in tokens]
    found = {key: np.concatenate([chunk[key] for chunk in found]) for key in found[0]}

    differences = {}

    def compare(kind, ours, theirs):
        difference = abs(ours - theirs) / max(1.0, abs(theirs))
        if kind.endswith("agreement"):
            # At one position the two likeliest tokens may be so close that rounding decides.
            difference = max(0.0, difference - 1 / (n_chunks * (n_ctx - 1)))
        differences.setdefault(kind, []).append(difference if np.isfinite(difference) else np.inf)

    def compare_spread(kind, values, spread):
        compare(f"{kind}, mean", values.mean(), spread["mean"])
        for q in (5, 25, 50, 75, 95):
            compare(f"{kind}, quantiles", np.quantile(values, q / 100), spread[f"p{q}"])

    def compare_point(kind, place, before, point):
        kl = found["lens", place, "kl"]
        compare_spread(f"{kind}: KL", kl, point["kl"])
        if before is not None:
            compare(f"{kind}: reduction", before - kl.mean(), point["kl_reduction"])
        compare(f"{kind}: top-1 agreement", found["lens", place, "top1"].mean(), point["top1_agreement"])
        compare(f"{kind}: NLL", found["lens", place, "nll"].mean(), point["target_nll"])
        return kl.mean()

    before = compare_point("lens", ("after", -1), None, lens["lens"]["embedding"])
    assert [p["layer"] for p in lens["lens"]["layers"]] == list(range(model.n_layer))
    for point in lens["lens"]["layers"]:
        layer = point["layer"]
        assert (("between", layer) in {place for _, place, _ in found}) == ("after_attention" in point), layer
        if "after_attention" in point:
            compare_point("lens after attention", ("between", layer), before, point["after_attention"])
        before = compare_point("lens", ("after", layer), before, point)

    def compare_addition(kind, values, total, part):
        compare(f"{kind}, mean", values.mean(), part["mean"])
        compare(f"{kind}, absolute", np.abs(values).mean(), part["mean_abs"])
        compare(f"{kind}, share", np.abs(values).mean() / total, part["share"])

    for token, prism in {"next": lens["prism"], "likeliest": lens["prism"]["likeliest_token"]}.items():
        parts = {(p["part"], p["layer"]): p for p in prism["parts"] if p["part"] != "rounding"}
        layers = {layer["layer"]: layer for layer in prism["layers"]}
        assert list(layers) == list(range(model.n_layer))
        for kind in ("raw", "relative"):
            of_kind = {key[1][1]: v for key, v in found.items() if (key[0], key[1][0], key[2]) == ("prism", token, kind)}
            assert of_kind.keys() == parts.keys(), (of_kind.keys(), parts.keys())
            counted = {place: v for place, v in of_kind.items() if not place[0].endswith("_experts")}
            total = sum(np.abs(values).mean() for values in counted.values())
            for place, values in of_kind.items():
                compare_addition(f"prism, {token}: {kind}", values, total, parts[place][kind])
            whole = {layer: sum(v for place, v in counted.items() if place[1] == layer) for layer in layers}
            total = sum(np.abs(v).mean() for v in [of_kind["embedding", None], *whole.values()])
            for layer, values in whole.items():
                compare_addition(f"prism, {token}, layers: {kind}", values, total, layers[layer][kind])
    for layer in lens["similarity"]["layers"]:
        for part in ("whole", "attention", "feed_forward"):
            for kind, of_part in {"cosine": layer[part], "distance": layer["distance"][part]}.items():
                values = found.get(("similarity", (layer["layer"], part), kind))
                assert (values is None) == (of_part is None), (layer["layer"], part)
                if values is not None:
                    compare_spread(f"similarity: {kind}, {part}", values, of_part)

    failed = False
    for kind, values in differences.items():
        ok = max(values) <= TOLERANCE
        failed |= not ok
        print(f"  {kind:40} {len(values):3} numbers, largest difference {max(values):.1e}{'' if ok else '  FAILED'}")
    largest = max(max(values) for values in differences.values())
    n = len(found["lens", ("after", 0), "kl"])
    print(f"{architecture}: {n} positions, largest difference {largest:.1e} (relative above 1, absolute below)")
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
