"""Make the last quick run the committed one: results/quick.json, its picture, the README's tables and answers.md.

python scripts/publish.py
"""

import re
import shutil
from pathlib import Path

from helpers import answers, plots, report
from helpers.results import load_results, published
from helpers.settings import load_settings, write_atomically

ROOT = Path(__file__).parents[1]


def main() -> None:
    settings = load_settings("quick")
    source = settings.folder / "results.json"
    results = load_results(source)
    target = ROOT / "results" / "quick.json"
    shutil.copyfile(source, target)
    plots.plot_grid(results).savefig(ROOT / "results" / "quick_grid.png", dpi=110, bbox_inches="tight")
    tables = [report.to_markdown(table(results, published())) for table in (report.validation_table, report.test_table)]
    block = "\n\n".join([*tables, f"Measured: {report.describe_run(results)} File: `results/quick.json`."])
    readme = ROOT / "README.md"
    text, found = re.subn(
        r"(?s)(<!-- begin results.*?-->\n).*?(<!-- end results -->)",
        lambda match: f"{match[1]}{block}\n{match[2]}",
        readme.read_text(encoding="utf-8"),
    )
    if found != 1:
        raise SystemExit("README.md has no block between <!-- begin results --> and <!-- end results -->.")
    write_atomically(readme, text)
    answers.write_answers(ROOT / "notebooks", target, ROOT / "answers.md")
    print("Wrote results/quick.json, results/quick_grid.png, README.md and answers.md")


if __name__ == "__main__":
    main()
