"""Measure a trained mini on held-out sentences: `python training/evaluate_mini.py`.

Perplexity per token and bits per byte of `heldout.txt` stand beside a unigram and a uniform
baseline over the same tokens; JSON accuracy is the share of held-out sentences whose whole object
greedy decoding gets right, character for character, without any constraint. The model is loaded from its
folder with transformers, as a user would. Nothing here is a statement about speed.
"""

import argparse
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

import bpe
import corpus

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "src" / "perstep" / "data" / "mini"
RECORDS_PER_COMBINATION = 4
WINDOWS = (256, 2048)  # tokens of context, `<bos>` included
MAX_JSON_TOKENS = 64
BATCH = 100
PROMPTS = ("", "Yesterday she", "Tomorrow the teacher will", "I have never")


def windows(lines: Sequence[list[int]], bos_id: int, length: int) -> list[list[int]]:
    """Whole lines packed into windows of at most `length` ids, each opened by `<bos>`."""
    packed = [[bos_id]]
    for line in lines:
        if len(packed[-1]) + len(line) > length:
            packed.append([bos_id])
        packed[-1] += line
    return packed


def heldout_nats(model: Any, packed: list[list[int]]) -> float:
    """The summed negative log-likelihood of every id after the first of its window, in nats."""
    nats = 0.0
    for window in packed:
        ids = torch.tensor([window])
        with torch.inference_mode():
            logits = model(input_ids=ids[:, :-1]).logits
        nats += functional.cross_entropy(logits[0].double(), ids[0, 1:], reduction="sum").item()
    return nats


def unigram_nats(tokenizer: Tokenizer, seed: int, num_documents: int = 20_000) -> list[float]:
    """Nats of each token id under its frequency in training documents, one added to every count."""
    texts = list(itertools.islice(corpus.documents(seed), num_documents))
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
        counts.update(encoding.ids)
    num_entries = tokenizer.get_vocab_size()
    total = counts.total() + num_entries
    return [-math.log((counts[i] + 1) / total) for i in range(num_entries)]


def perplexities(model: Any, tokenizer: Tokenizer, text: str, seed: int) -> dict[str, Any]:
    """Perplexity and bits per byte of the model (per window length) and of the two baselines."""
    encodings = tokenizer.encode_batch(text.splitlines(keepends=True), add_special_tokens=False)
    lines = [e.ids for e in encodings]
    ids = [i for line in lines for i in line]
    sums = {f"mini_window_{n}": heldout_nats(model, windows(lines, bpe.BOS_ID, n)) for n in WINDOWS}
    unigram = unigram_nats(tokenizer, seed)
    sums["unigram"] = sum(unigram[i] for i in ids)
    sums["uniform"] = len(ids) * math.log(tokenizer.get_vocab_size())
    num_bytes = len(text.encode())
    return {
        "tokens": len(ids),
        "bytes": num_bytes,
        "perplexity_per_token": {name: round(math.exp(nats / len(ids)), 4) for name, nats in sums.items()},
        "bits_per_byte": {name: round(nats / math.log(2) / num_bytes, 4) for name, nats in sums.items()},
    }


def greedy(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """What greedy decoding adds to each prompt, up to `<eos>`; special tokens left out."""
    tokenizer.padding_side = "left"
    added: list[str] = []
    for i in range(0, len(prompts), BATCH):
        inputs = tokenizer(list(prompts[i : i + BATCH]), return_tensors="pt", padding=True, return_token_type_ids=False)
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        added += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return added


def json_right(model: Any, tokenizer: Any, records: Sequence[corpus.Record]) -> list[bool]:
    """Whether the first line that greedy decoding adds to each prompt is exactly the record's JSON."""
    added = greedy(model, tokenizer, [r.prompt for r in records], MAX_JSON_TOKENS)
    return [text.split("\n", 1)[0] == " " + r.json for text, r in zip(added, records, strict=True)]


def evaluate(folder: Path, seed: int) -> dict[str, Any]:
    """Everything that `report.json` says under `evaluation`."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    records = corpus.heldout_records(seed, RECORDS_PER_COMBINATION)
    right = json_right(model, tokenizer, records)
    text = (folder / "heldout.txt").read_text(encoding="utf-8")
    wrong = [r.prompt for r, ok in zip(records, right, strict=True) if not ok]
    return {
        "corpus_seed": seed,
        "heldout_combinations": len(corpus.split(seed)[1]),
        "heldout_sentences": len(records),
        "json_exact_share": round(sum(right) / len(right), 4),
        "json_wrong_examples": wrong[:5],
        "heldout_text": perplexities(model, Tokenizer.from_file(str(folder / "tokenizer.json")), text, seed),
        "greedy_continuations": dict(zip(PROMPTS, greedy(model, tokenizer, PROMPTS, 24), strict=True)),
    }


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Replace `report.json` in one step."""
    temporary = folder / ".report.json.tmp"
    temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / "report.json")


def main(argv: list[str] | None = None) -> None:
    """Measure a folder again and renew the `evaluation` part of its report."""
    parser = argparse.ArgumentParser(description="Measure a trained mini on held-out sentences.")
    parser.add_argument("--model", type=Path, default=DEFAULT_FOLDER, help="model folder (default: the shipped one)")
    parser.add_argument("--seed", type=int, default=corpus.SEED, help="of the corpus (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: %(default)s)")
    args = parser.parse_args(argv)
    if not (args.model / "model.safetensors").is_file():
        parser.error(f"{args.model} holds no model.safetensors; train one with train_mini.py --out {args.model}")
    torch.set_num_threads(args.threads)
    path = args.model / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    report["evaluation"] = evaluate(args.model, args.seed)
    write_report(args.model, report)
    sys.stderr.write(json.dumps(report["evaluation"], indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
