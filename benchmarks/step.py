"""Where does the time of a full-size training step go? Its matrix products against the machine's limit, and the rest.

    COURSE_MODEL=... COURSE_DATA=<IMDb> python benchmarks/step.py

Profiles steps of 32 real reviews of up to 512 tokens, in one thread, for both policies. Writes benchmarks/step.json.
"""

import argparse
import json
import os
import time

import reference
import torch
from sides import describe_origin, open_trainer, save
from torch.profiler import ProfilerActivity, profile

from helpers.data import load_reviews
from helpers.settings import Run, load_settings

REVIEWS, STEPS = {"train": 320, "validation": 8}, 4
BATCH_SIZE = 32
# The operations of each kind; all remaining ones are called "other".
KINDS = {
    "matrix products": ("mm", "bmm", "addmm"),
    "multiplying, adding and copying": ("mul", "mul_", "add", "add_", "copy_", "cat", "fill_", "sum", "div", "where"),
    "dropout's numbers": ("random_", "ge"),
    "softmax": ("_softmax", "_softmax_backward_data", "masked_fill_"),
    "GELU": ("gelu", "gelu_backward"),
    "choosing rows": ("index", "index_select", "_index_put_impl_", "embedding_dense_backward"),
    "layer norm": ("native_layer_norm", "native_layer_norm_backward"),
    "optimizer": ("_fused_adamw_", "linalg_vector_norm"),
}


def measure_limit(size: int = 1024) -> float:
    """The best rate at which one thread multiplies two large matrices, in GFLOP/s."""
    matrix, seconds = torch.ones(size, size), []
    for _ in range(10):
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


def profile_steps(settings, padded, policy: str) -> dict:
    """The share of each kind of operation in a step's time, and the rate of its matrix products."""
    with open_trainer("ours", settings, Run(policy, 3e-4, BATCH_SIZE, epochs=1, at_end=True), padded) as trainer:
        trainer.create_optimizer()
        batches = iter(trainer.get_train_dataloader())

        def step() -> int:
            batch = next(batches)
            trainer.training_step(trainer.model, batch)
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
            trainer.optimizer.step()
            trainer.model.zero_grad()
            return int(batch["attention_mask"].sum())

        for _ in range(2):
            step()
        with profile(activities=[ProfilerActivity.CPU], with_flops=True) as measured:
            tokens = sum(step() for _ in range(STEPS))
    operations = {event.key.removeprefix("aten::"): event for event in measured.key_averages()}
    whole = sum(event.self_cpu_time_total for event in operations.values())
    seconds = {
        kind: sum(operations[name].self_cpu_time_total for name in names if name in operations) / 1e6
        for kind, names in KINDS.items()
    }
    products = [operations[name] for name in KINDS["matrix products"]]
    return {
        "policy": policy,
        "tokens_a_review": round(tokens / STEPS / BATCH_SIZE),
        "step_seconds": round(whole / 1e6 / STEPS, 4),
        "gflops_in_products": round(sum(event.flops for event in products) / 1e9 / seconds["matrix products"], 1),
        "shares": {kind: round(found / (whole / 1e6), 3) for kind, found in seconds.items()}
        | {"other": round(1 - sum(seconds.values()) / (whole / 1e6), 3)},
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    settings = load_settings("full", precision="fp32")
    reviews = load_reviews(settings)
    sample = {split: reviews[split].select(range(count)) for split, count in REVIEWS.items()}
    padded = {split: reference.tokenise(rows, settings.model) for split, rows in sample.items()}
    found = {
        "gflops_of_large_products": round(measure_limit(), 1),
        "steps": [profile_steps(settings, padded, policy) for policy in ("full", "bitfit")],
    }
    save("step", describe_origin(settings, sample) | {"batch_size": BATCH_SIZE, "precision": "fp32"}, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
