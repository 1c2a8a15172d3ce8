"""The hub, with the library's own client: a server on this machine answers it as the hub does."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
import torch
from conftest import run_python
from huggingface_hub import constants
from test_models import old_folder

from helpers.data import load_reviews
from helpers.models import fingerprint_model
from helpers.settings import CourseError, Settings

BERT_TINY, IMDB = "prajjwal1/bert-tiny", "stanfordnlp/imdb"


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, about the repositories in a folder: `models/OWNER/NAME` and `datasets/OWNER/NAME`."""

    def __init__(self, root: Path, *given: Any) -> None:
        self.root = root
        super().__init__(*given)

    def do_GET(self) -> None:
        kind, name, asked, revision, inside = re.fullmatch(
            r"/(?:api/)?(datasets/|models/|)([\w-]+/[\w-]+)(?:/(revision|tree|resolve)/(\w+))?/?([^?]*).*",
            unquote(self.path),
        ).groups(default="0" * 40)
        repository = self.root / (kind or "models") / name
        files = {str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*.*")}
        if asked == "resolve":
            content, tag = files[inside], hashlib.sha256(files[inside]).hexdigest()
        else:
            listed = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files]
            content, tag = json.dumps(listed if asked == "tree" else {"id": name, "sha": revision}).encode(), "none"
        self.send_response(200)
        for header, value in {"Content-Length": len(content), "ETag": f'"{tag}"', "X-Repo-Commit": revision}.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *said: Any) -> None:
        pass


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """A hub on this machine with the repositories in a folder; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, root)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


SCRIPT = """
import json
from helpers.data import load_reviews
from helpers.models import fingerprint_model, load_classifier, load_tokenizer
from helpers.settings import load_settings

settings = load_settings("full")
print(json.dumps({
    "model": float(load_classifier(settings.model).bert.pooler.dense.weight.double().sum()),
    "tokenizer": load_tokenizer(settings.model)("Hello world!")["input_ids"],
    "fingerprint": fingerprint_model(settings.model),
    "data": {split: len(rows) for split, rows in load_reviews(settings).items()},
}))
"""


def test_what_prefetch_has_fetched_serves_without_network(tmp_path: Path) -> None:
    """In new processes, for the library is set up when it is imported; what is not cached: see `test_doctor`."""
    source, data = old_folder(tmp_path / "models" / BERT_TINY), tmp_path / "datasets" / IMDB / "plain_text"
    data.mkdir(parents=True)
    for split, count in (("train", 20), ("test", 10), ("unsupervised", 4)):
        rows = pd.DataFrame({"text": [f"{split} {row}" for row in range(count)], "label": [0, 1] * (count // 2)})
        rows.to_parquet(data / f"{split}-00000-of-00001.parquet")
    (source / "README.md").write_text("Not fetched: an offline look-up must not ask for it.")
    with serve(tmp_path) as address:
        here = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1"}
        process = run_python("-m", "helpers", "prefetch", **here)
    assert "Cached: " in process.stdout, process.stderr
    fetched = {path.name for path in (tmp_path / "home").rglob("snapshots/*/**/*.*")}
    tables = {f"{split}-00000-of-00001.parquet" for split in ("train", "test")}
    assert fetched == tables | {"config.json", "vocab.txt", "pytorch_model.bin"}

    process = run_python("-W", "ignore", "-c", SCRIPT, **here)
    assert process.returncode == 0, process.stderr
    found, weights = json.loads(process.stdout), torch.load(source / "pytorch_model.bin")
    assert found["model"] == float(weights["bert.pooler.dense.weight"].double().sum())
    assert found["tokenizer"] == [101, 7592, 2088, 999, 102]
    assert found["fingerprint"] == fingerprint_model(str(source))
    assert found["data"] == {"train": 16, "validation": 4, "test": 10}


def test_a_data_set_in_one_file_or_in_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, none = (tmp_path / "datasets" / "lab" / name for name in ("one", "none"))
    one.mkdir(parents=True)
    none.mkdir()
    (none / "README.md").write_text("The files come later.")
    rows = {"review": [f"film {row}" for row in range(20)], "sentiment": ["positive", "negative"] * 10}
    pd.DataFrame(rows).to_csv(one / "IMDB Dataset.csv", index=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(tmp_path) as address:
        known = {"ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": False}
        known["HUGGINGFACE_CO_URL_TEMPLATE"] = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in known.items():
            monkeypatch.setattr(constants, name, value)
        assert len(load_reviews(Settings(data="lab/one"))["test"]) == 10
        with pytest.raises(CourseError, match=r"The data lab/none .*it has no file that matches \*.parquet"):
            load_reviews(Settings(data="lab/none"))
