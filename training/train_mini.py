"""Train mini from nothing and write its model folder: `python training/train_mini.py`.

The corpus, the tokenizer, the weights and their order all follow from `--seed`, so two runs on one
machine with one thread count give the same weights. The folder appears whole or not at all. What the
numbers are worth is `evaluate_mini.py`'s job, which runs at the end and writes `report.json`.
"""

import argparse
import itertools
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

import bpe
import corpus
import evaluate_mini

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "src" / "perstep" / "data" / "mini"
DEFAULT_STEPS = 1000
MAX_POSITIONS = 2048
TOKENS_PER_STEP = 8192
SHORT_ROW = 256  # tokens; most steps
LONG_EVERY = 8  # one step in eight has rows of MAX_POSITIONS, so that every position is trained
PEAK_LR = 4e-3
WARMUP_STEPS = 60
WEIGHT_DECAY = 0.1

SPECIAL_IDS = {"pad_token_id": bpe.PAD_ID, "bos_token_id": bpe.BOS_ID, "eos_token_id": bpe.EOS_ID}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": bpe.NUM_ENTRIES,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_act": "silu",
    "max_position_embeddings": MAX_POSITIONS,
    "rms_norm_eps": 1e-5,
    # Both spellings: transformers 5 writes the second and reads either, older readers know the first.
    "rope_theta": 10000.0,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    **SPECIAL_IDS,
    "dtype": "float32",
    "use_cache": True,
}
GENERATION_CONFIG = {**SPECIAL_IDS, "do_sample": False}


def token_documents(tokenizer: Tokenizer, seed: int) -> Iterator[list[int]]:
    """Documents as ids, `<bos> ... <eos>`; one in five lacks the `<bos>`, as some prompts do."""
    texts = corpus.documents(seed)
    rng = random.Random(f"bos {seed}")
    while True:
        for encoding in tokenizer.encode_batch(list(itertools.islice(texts, 2000)), add_special_tokens=False):
            yield [*([bpe.BOS_ID] if rng.random() < 0.8 else []), *encoding.ids, bpe.EOS_ID]


def rows(documents: Iterator[list[int]], length: int) -> Iterator[list[int]]:
    """Rows of `length` ids that start where a document starts; the end of the last one is cut off."""
    while True:
        row: list[int] = []
        while len(row) < length:
            row += next(documents)
        yield row[:length]


def batches(tokenizer: Tokenizer, seed: int) -> Iterator[torch.Tensor]:
    """Ids [B, T + 1] with B * T = TOKENS_PER_STEP; T is SHORT_ROW, and MAX_POSITIONS every LONG_EVERY steps."""
    documents = token_documents(tokenizer, seed)
    for step in itertools.count(1):
        length = MAX_POSITIONS if step % LONG_EVERY == 0 else SHORT_ROW
        yield torch.tensor(list(itertools.islice(rows(documents, length + 1), TOKENS_PER_STEP // length)))


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up to PEAK_LR, then a cosine down to a hundredth of it at the last step."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LR * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def new_optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    """AdamW; norms are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.95))


def train(tokenizer: Tokenizer, steps: int, seed: int) -> tuple[LlamaForCausalLM, float]:
    """The trained model and its mean loss over the last 50 steps, in nats per token."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).train()
    optimizer = new_optimizer(model)
    losses: list[float] = []
    start = time.monotonic()
    for step, ids in enumerate(itertools.islice(batches(tokenizer, seed), steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 20 == 0 or step + 1 == steps:
            elapsed = time.monotonic() - start
            left = elapsed / (step + 1) * (steps - step - 1)
            recent = losses[-20:]
            say(f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.4f}  {left:.0f} s left")
    tail = losses[-50:]
    return model.eval(), sum(tail) / len(tail)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path, seed: int) -> None:
    """Write the standard files (the tied head is not repeated) and the held-out text."""
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    for name, value in (("config.json", CONFIG), ("generation_config.json", GENERATION_CONFIG)):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    bpe.save(tokenizer, folder, MAX_POSITIONS)
    (folder / "heldout.txt").write_text(corpus.heldout_text(seed), encoding="utf-8")


def replace_folder(new: Path, out: Path) -> None:
    """Put `new` in the place of `out` by renaming: a reader never sees half of a folder."""
    old = new.with_name(new.name + "-old")
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def say(text: str) -> None:
    """Progress goes to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train mini and write its model folder.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="model folder (default: the shipped one)")
    parser.add_argument(
        "--steps", type=int, default=DEFAULT_STEPS, help=f"of {TOKENS_PER_STEP} tokens (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=corpus.SEED, help="of corpus and weights (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.threads < 1:
        parser.error("--steps and --threads must be at least 1")
    if args.out.exists() and not (args.out / "config.json").is_file():
        parser.error(f"{args.out} exists and is no model folder (it has no config.json): give a new or a model's path")
    return args


def main(argv: list[str] | None = None) -> None:
    """Corpus, tokenizer, training, evaluation, and only then the folder."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    start = time.monotonic()
    out = args.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = bpe.train(itertools.islice(corpus.documents(args.seed), 20_000))
    model, loss = train(tokenizer, args.steps, args.seed)
    training = {
        "seed": args.seed,
        "steps": args.steps,
        "tokens": args.steps * TOKENS_PER_STEP,
        "threads": args.threads,
        "final_loss_nats_per_token": round(loss, 4),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "training_s": round(time.monotonic() - start, 1),
        "training_cpu_s": round(time.process_time(), 1),  # over all threads; does not count other work
    }
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".mini-") as staging:
        folder = Path(staging) / "mini"
        folder.mkdir()
        save(model, tokenizer, folder, args.seed)
        say("evaluating")
        report = evaluate_mini.evaluate(folder, args.seed)
        evaluate_mini.write_report(folder, {"training": training, "evaluation": report})
        replace_folder(folder, out)
    say(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
