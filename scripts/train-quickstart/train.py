"""The training: AdamW, a fixed number of steps from a fixed seed.

An interrupted run continues from its last checkpoint and ends with the same weights.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from grow import grow
from model import Llama
from models import MODELS, Schedule
from tokenizer import BOS_ID

BUNDLED = Path(__file__).resolve().parents[2] / "assets/quickstart/quickstart.gguf"


class Sequences:
    """A token stream cut into sequences of n_ctx, at other places and in another order each epoch."""

    def __init__(self, stream: Tensor, n_ctx: int, seed: int) -> None:
        self.stream, self.n_ctx, self.seed = stream, n_ctx, seed
        # One sequence fewer than fit leaves room for the shift, and one token for the last target.
        self.count = (len(stream) - 1) // n_ctx - 1

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """(tokens, targets) of a step: a function of the step alone, so that a run can be resumed."""
        epoch, index = divmod(step, self.count // size)
        generator = torch.Generator().manual_seed(self.seed + epoch)
        shift = int(torch.randint(self.n_ctx, (), generator=generator))
        order = torch.randperm(self.count, generator=generator)
        starts = shift + self.n_ctx * order[index * size : (index + 1) * size]
        window = self.stream[starts.unsqueeze(1) + torch.arange(self.n_ctx + 1)]
        tokens, targets = window[:, :-1].clone(), window[:, 1:]
        # As llama-imatrix and llama-perplexity do: BOS takes the place of a chunk's first token.
        tokens[:, 0] = BOS_ID
        return tokens, targets


@torch.no_grad()
def perplexity(model: Llama, stream: Tensor) -> float:
    """As `llama-perplexity -c n_ctx`: over the second half of each whole chunk, BOS before the text."""
    n_ctx = model.config.n_ctx
    chunks = torch.cat([torch.tensor([BOS_ID]), stream]).unfold(0, n_ctx, n_ctx).clone()
    chunks[:, 0] = BOS_ID
    scored = slice(n_ctx // 2, n_ctx - 1)
    losses = [
        F.cross_entropy(model(chunk.unsqueeze(0))[0, scored], chunk[1:][scored])
        for chunk in chunks
    ]
    return float(torch.stack(losses).mean().exp())


def encode(tokenizer: Tokenizer, text: Path) -> Tensor:
    return torch.tensor(tokenizer.encode(text.read_text(encoding="utf-8")).ids)


def optimizer_for(model: Llama, schedule: Schedule) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": norms, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=schedule.peak_lr, betas=(0.9, 0.95))


def balance(model: Llama) -> Tensor:
    return torch.stack([experts.balance for experts in model.experts()]).mean()


def usage(model: Llama) -> str:
    """Tokens of the least and the most used expert of each layer, in the last batch."""
    counts = [f"{int(experts.counts.min())}-{int(experts.counts.max())}" for experts in model.experts()]
    return f"  tokens per expert {' '.join(counts)}" if counts else ""


def save(path: Path, model: Llama, optimizer: torch.optim.Optimizer, step: int) -> None:
    state = {"config": asdict(model.config), "model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train.txt, held-out.txt and tokenizer.json")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", choices=MODELS, default="quickstart")
    parser.add_argument("--start", type=Path, default=BUNDLED, help="model that the larger ones start from")
    parser.add_argument("--threads", type=int, default=2, help="the weights depend on it, in the last digits")
    args = parser.parse_args()

    schedule, config = MODELS[args.model].schedule, MODELS[args.model].config
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(schedule.seed)

    tokenizer = Tokenizer.from_file(str(args.data / "tokenizer.json"))
    sequences = Sequences(encode(tokenizer, args.data / "train.txt"), config.n_ctx, schedule.seed)
    model = Llama(config)
    optimizer = optimizer_for(model, schedule)
    first = 0
    if args.checkpoint.exists():
        state = torch.load(args.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    elif MODELS[args.model].grows:
        print(f"grown from {args.start}; at random: {grow(model, args.start)}")
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters} parameters, {len(sequences.stream)} tokens an epoch, from step {first}", flush=True)

    began = time.monotonic()
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr(step)
        loss = model.loss(*sequences.batch(step, schedule.batch))
        (loss + schedule.balance * balance(model) if config.n_expert else loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        optimizer.zero_grad()

        done = step + 1
        if done % 10 == 0:
            pace = (time.monotonic() - began) / (done - first)
            print(f"step {done}/{schedule.steps}  loss {loss.item():.3f}  {pace:.2f} s per step{usage(model)}", flush=True)
        if done % schedule.save_every == 0 or done == schedule.steps:
            save(args.checkpoint, model, optimizer, done)

    held_out = encode(tokenizer, args.data / "held-out.txt")
    print(f"held-out: {len(held_out)} tokens, perplexity {perplexity(model, held_out):.4f}")


if __name__ == "__main__":
    main()
