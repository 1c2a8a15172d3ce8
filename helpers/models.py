"""BERT classifiers: loading them from the hub or a folder, and which of their parameters a policy trains."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import BertForSequenceClassification, BertTokenizerFast, PreTrainedConfig
from transformers.utils import cached_file, logging

from helpers.settings import REVISIONS, CourseError, is_hub_id, short_name

# From a policy to the names of the parameters it trains. `full` is ordinary fine-tuning. `bitfit` trains the biases
# and nothing else: the random weight of the classifier stays frozen, as in the course's published runs. `bitfit+head`
# is BitFit as its paper does it (Zaken et al. 2022, section 3). `head` trains the classifier alone.
POLICIES: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "bitfit": lambda name: name.endswith(".bias"),
    "bitfit+head": lambda name: name.endswith(".bias") or name.startswith("classifier."),
    "head": lambda name: name.startswith("classifier."),
    # The paper's ablation (section 4): of the biases those of the query and of the MLP's first layer alone.
    "bitfit-qi+head": lambda name: (
        name.endswith(("query.bias", "intermediate.dense.bias")) or name.startswith("classifier.")
    ),
}


def check_policy(policy: str) -> str:
    if policy not in POLICIES:
        raise CourseError(f"Unknown policy {policy!r}. Choose one of: {', '.join(POLICIES)}.")
    return policy


def apply_policy(model: torch.nn.Module, policy: str) -> torch.nn.Module:
    """Set `requires_grad` of every parameter as the policy says; returns the same model."""
    trains = POLICIES[check_policy(policy)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trains(name)
    return model


def count_parameters(model: torch.nn.Module, trainable_only: bool = True, with_head: bool = True) -> int:
    """Count single numbers, not tensors; `with_head=False` leaves the classifier out."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad or not trainable_only) and (with_head or not name.startswith("classifier."))
    )


def load_classifier(model: str) -> BertForSequenceClassification:
    """Load a BERT encoder with a freshly drawn 2-label classifier, in float32, from a hub id or a folder.

    A folder with a fine-tuned classifier in it keeps that classifier. Raises CourseError where nothing is found.
    """
    with _loading(model, "model"):
        _find(model, "config.json")
        # The hub's bert-tiny is so old that its configuration does not say which kind of model it is.
        kind = PreTrainedConfig.get_config_dict(model, **_revision(model))[0].get("model_type", "bert")
        if kind != "bert":
            raise CourseError(
                f"{short_name(model)} is a {kind} model, not BERT: its parameters have other names, so the"
                " policies would train the wrong ones. Choose a BERT checkpoint, such as prajjwal1/bert-tiny."
            )
        # The offline checkpoint is stored in float16, and transformers 5 would keep it so.
        classifier, report = BertForSequenceClassification.from_pretrained(
            model, num_labels=2, dtype=torch.float32, output_loading_info=True, **_revision(model)
        )
        missing = sorted(name for name in report["missing_keys"] if name.startswith("bert."))
        if missing:
            raise CourseError(
                f"{short_name(model)} has no weights for {len(missing)} tensors of its encoder, {missing[0]} among"
                " them; they would be random. Choose a checkpoint with the whole of BERT, its pooler included."
            )
        return classifier


def load_tokenizer(model: str) -> BertTokenizerFast:
    """Load the WordPiece tokenizer that belongs to a model; its length limit is BERT's 512.

    The hub's bert-tiny has a `vocab.txt` and nothing else, hence no limit of its own.
    """
    with _loading(model, "tokenizer"):
        _find(model, "vocab.txt", "tokenizer.json")  # Without either, transformers 5 makes up a vocabulary of 5 tokens.
        tokenizer = BertTokenizerFast.from_pretrained(model, model_max_length=512, **_revision(model))
        vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        if not set(tokenizer.all_special_tokens) < set(vocabulary):
            raise ValueError("its vocab.txt is not a BERT vocabulary: copy the right one beside the model")
        return tokenizer


def save_delta(classifier: BertForSequenceClassification, model: str, path: Path) -> None:
    """Store what a task adds to the pre-trained `model`: the tensors that differ from it, and the whole classifier.

    The classifier belongs to it also where it was frozen, for it was drawn at random and is in no checkpoint.
    """
    before = load_classifier(model).state_dict()
    delta = {
        name: value.detach().cpu().contiguous()
        for name, value in classifier.state_dict().items()
        if name.startswith("classifier.") or not torch.equal(value.detach().cpu(), before[name])
    }
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    save_file(delta, beside, {"model": short_name(model), "fingerprint": fingerprint_model(model)})
    os.replace(beside, path)


def load_delta(path: Path, model: str) -> BertForSequenceClassification:
    """The fine-tuned classifier: `model` with a delta's tensors; CourseError where the delta is of another model."""
    try:
        with safe_open(path, "pt") as file:
            made_from = file.metadata() or {}
            delta = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CourseError(f"Could not read the delta {path}: {error}.") from error
    if made_from.get("fingerprint") != fingerprint_model(model):
        raise CourseError(
            f"The delta {path} was made from {made_from.get('model', 'an unknown model')}"
            f" ({made_from.get('fingerprint', 'no fingerprint')}), not from {short_name(model)}"
            f" ({fingerprint_model(model)}): load it with the model that it was made from."
        )
    classifier = load_classifier(model)
    classifier.load_state_dict(classifier.state_dict() | delta)
    return classifier


def fingerprint_model(model: str) -> str:
    """Hash the files which decide what a model is: configuration, weights and vocabulary (SHA-256, 16 digits)."""
    digest = hashlib.sha256()
    with _loading(model, "model"):
        _find(model, "config.json")
        for name in ("config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt"):
            path = cached_file(model, name, _raise_exceptions_for_missing_entries=False, **_revision(model))
            if path is not None:
                digest.update(name.encode() + Path(path).read_bytes())
    return digest.hexdigest()[:16]


def _find(model: str, *names: str) -> None:
    """Raise FileNotFoundError unless the model's folder or repository has one of the files."""
    for name in names:
        if cached_file(model, name, _raise_exceptions_for_missing_entries=False, **_revision(model)) is not None:
            return
    raise FileNotFoundError(f"there is no {' and no '.join(names)}")


def _revision(model: str) -> dict[str, str]:
    return {"revision": REVISIONS[model]} if model in REVISIONS else {}


@contextmanager
def quiet_library() -> Iterator[None]:
    """Silence transformers' load report and progress bars: written to stderr, they would differ in every notebook."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _loading(model: str, what: str) -> Iterator[None]:
    """Say in one sentence what could not be loaded, and what to do."""
    if not is_hub_id(model) and not Path(model).is_dir():
        raise CourseError(f"There is no model folder {model}. Give a hub id or a folder with config.json.")
    try:
        with quiet_library():
            yield
    except CourseError:
        raise
    except Exception as error:  # What a broken file makes the libraries raise has no common kind.
        first = next(iter(str(error).splitlines()), type(error).__name__)
        if is_hub_id(model) and not Path(model).is_dir():
            raise CourseError(
                f"The {what} {model} is not a folder here, not in the hub's cache, and not to be had over the network."
                " Either work with --profile quick, which needs no network, or run `python -m helpers prefetch` where"
                f" there is one. (The library said: {first})"
            ) from error
        raise CourseError(f"Could not load the {what} from {model}: {first}") from error
