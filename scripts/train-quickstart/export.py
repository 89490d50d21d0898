"""A checkpoint and its tokenizer as one GGUF file: matrices f16, norms f32."""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch

from model import Config
from models import MODELS
from tokenizer import BOS, BOS_ID, LLAMA_CPP_PRE

DESCRIPTION = (
    "A {size} trained on the King James Bible, to try llama-imatrix with. "
    "The text is in the public domain; the weights are under the MIT licence of llama-imatrix."
)

# From this project's parameter names to llama.cpp's.
TOP = {"token_embd.weight": "token_embd.weight", "output_norm.weight": "output_norm.weight", "output.weight": "output.weight"}
BLOCK = {
    "attn_norm.weight": "attn_norm.weight",
    "attn.q.weight": "attn_q.weight",
    "attn.k.weight": "attn_k.weight",
    "attn.v.weight": "attn_v.weight",
    "attn.output.weight": "attn_output.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "ffn.gate.weight": "ffn_gate.weight",
    "ffn.up.weight": "ffn_up.weight",
    "ffn.down.weight": "ffn_down.weight",
    "ffn.gate_inp.weight": "ffn_gate_inp.weight",
    "ffn.gate_exps": "ffn_gate_exps.weight",
    "ffn.up_exps": "ffn_up_exps.weight",
    "ffn.down_exps": "ffn_down_exps.weight",
}

# The model was trained on no conversations: this only makes them text, as a play is written down.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}"


def tensor_name(parameter: str) -> str:
    if not parameter.startswith("blocks."):
        return TOP[parameter]
    _, layer, rest = parameter.split(".", 2)
    return f"blk.{layer}.{BLOCK[rest]}"


# llama.cpp's own conversion keeps the router's matrix in f32, and llama-quantize leaves it alone.
F32 = ("ffn_gate_inp.weight",)


def stored(name: str, parameter: np.ndarray) -> np.ndarray:
    f16 = parameter.ndim >= 2 and not name.endswith(F32)
    return parameter.astype(np.float16 if f16 else np.float32)


def add_model(writer: gguf.GGUFWriter, name: str, config: Config) -> None:
    writer.add_name(f"llama-imatrix {name}")
    writer.add_description(DESCRIPTION.format(size=MODELS[name].size))
    writer.add_license("mit")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config.n_vocab)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_head_kv)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if config.n_expert:
        writer.add_expert_count(config.n_expert)
        writer.add_expert_used_count(config.n_expert_used)


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer_json: Path) -> None:
    model = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    types = [gguf.TokenType.CONTROL if token == BOS else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(LLAMA_CPP_PRE)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(BOS_ID)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json")
    parser.add_argument("out", type=Path, help="model.gguf")
    parser.add_argument("--model", choices=MODELS, default="quickstart")
    args = parser.parse_args()

    state = torch.load(args.checkpoint, weights_only=True)
    writer = gguf.GGUFWriter(args.out, "llama")
    add_model(writer, args.model, Config(**state["config"]))
    add_vocabulary(writer, args.tokenizer)
    for name, parameter in state["model"].items():
        writer.add_tensor(tensor_name(name), stored(tensor_name(name), parameter.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{args.out}: step {state['step']}, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
