"""BERT classifiers: load them from the hub or a folder, and choose which parameters a policy trains."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from transformers import BertForSequenceClassification, BertTokenizerFast
from transformers.utils import logging

from helpers.hub import find_folder, first_line
from helpers.settings import CourseError

WRITTEN = "the folder must be one that save_pretrained of a BERT model and of its tokenizer wrote"
MAX_LENGTH = 512  # the most tokens of a review that BERT reads
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
# The files that define a model: configuration, vocabulary, weights.
IDENTITY = ("config.json", "vocab.txt", "tokenizer*.json", "*_tokens*.json")
IDENTITY += ("*.safetensors", "pytorch_model*.bin", "*.index.json")

# For each policy, which parameters it trains, by name. `full` is ordinary fine-tuning. `bitfit` trains only the biases:
# the random weight of the classifier stays frozen, as in the course's published runs. `bitfit+head` is BitFit as in its
# paper (Ben Zaken et al. 2022, section 3). `head` trains only the classifier.
POLICIES: dict[str, Callable[[str], bool]] = {
    "full": lambda name: True,
    "bitfit": lambda name: name.endswith(".bias"),
    "bitfit+head": lambda name: name.endswith(".bias") or name.startswith("classifier."),
    "head": lambda name: name.startswith("classifier."),
    # The paper's ablation (section 4): of the biases, only those of the query and of the MLP's first layer.
    "bitfit-qi+head": lambda name: (
        name.endswith(("query.bias", "intermediate.dense.bias")) or name.startswith("classifier.")
    ),
}


def check_policy(policy: str) -> str:
    if policy not in POLICIES:
        raise CourseError(f"Unknown policy {policy!r}. Choose one of: {', '.join(POLICIES)}.")
    return policy


def apply_policy(model: torch.nn.Module, policy: str) -> torch.nn.Module:
    """Set `requires_grad` of every parameter according to the policy; returns the same model."""
    trains = POLICIES[check_policy(policy)]
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trains(name)
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Count the trainable parameters (scalars, not tensors)."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def load_classifier(model: str) -> BertForSequenceClassification:
    """Load a BERT encoder with a randomly initialised 2-label classifier, in float32, from a hub id or a folder.

    If the checkpoint has a fine-tuned classifier, that one is loaded. Raises CourseError if nothing is found, and for
    checkpoints that would fail in training or would not train what the policies say.
    """
    # The offline checkpoint is stored in float16, which transformers 5 would keep. A model configured to return its
    # attentions cannot be saved again, and a review has one label, whatever the model was made for.
    options = {"num_labels": 2, "dtype": torch.float32, "output_attentions": False, "output_hidden_states": False}
    options |= {"problem_type": None, "is_decoder": False, "add_cross_attention": False}
    with _loading(model, "model") as folder:
        _check_config(folder)
        classifier, report = BertForSequenceClassification.from_pretrained(
            folder, **options, output_loading_info=True, ignore_mismatched_sizes=True
        )
        for name, stored, wanted in sorted(report["mismatched_keys"]):
            raise ValueError(
                f"{name} has the shape {tuple(stored)} instead of {tuple(wanted)}: weights must fit their config.json,"
                " and a classifier must have two labels. Choose another checkpoint, or remove its classifier"
            )
        if missing := sorted(name for name in report["missing_keys"] if name.startswith("bert.")):
            raise ValueError(
                f"it has no weights for {len(missing)} tensors of its encoder, such as {missing[0]}, which would be"
                " random. Choose a checkpoint with the whole of BERT, its pooler included"
            )
        if more := sorted(name for name in report["unexpected_keys"] if ".layer." in name):
            raise ValueError(f"it has weights for {more[0]}, which is no layer by its config.json")
        for name, tensor in classifier.named_parameters():
            if not tensor.isfinite().all():
                raise ValueError(f"its {name} has numbers that are not finite: copy or download it again")
            tensor.data = tensor.data.clone()  # A memory-mapped file could not be removed on Windows.
        return classifier


def _read_json(path: Path) -> dict:
    """A model's file of settings, empty if it is missing; ValueError names one that is cut short or an HTML page."""
    try:
        return {**json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"its {path.name} is no JSON object ({error}): copy or download it again") from error


def _check_config(folder: Path) -> None:
    """Raises ValueError if the course cannot train such a model."""
    config = _read_json(folder / "config.json")
    if not config:
        raise ValueError(f"there is no config.json: {WRITTEN}")
    # The hub's bert-tiny is so old that its configuration does not say which type of model it is.
    if (kind := config.get("model_type", "bert")) != "bert":
        raise ValueError(
            f'its model_type is "{kind}", not "bert": its parameters have other names, so the policies would train the'
            " wrong ones. Choose a BERT checkpoint, such as prajjwal1/bert-tiny"
        )
    places = config.get("max_position_embeddings", MAX_LENGTH)
    if not isinstance(places, int) or places < MAX_LENGTH:
        raise ValueError(f"it reads {places} tokens (max_position_embeddings), but reviews have up to {MAX_LENGTH}")
    if config.get("quantization_config"):
        raise ValueError("it is quantised (quantization_config): choose the same model with its ordinary weights")


def load_tokenizer(model: str) -> BertTokenizerFast:
    """Load the WordPiece tokenizer that belongs to a model; its length limit is BERT's 512.

    The hub's bert-tiny has only a `vocab.txt`, and thus no limit of its own.
    """
    with _loading(model, "tokenizer") as folder:
        if not any((folder / name).exists() for name in ("vocab.txt", "tokenizer.json")):
            # transformers 5 would silently create a vocabulary of 5 tokens.
            raise FileNotFoundError(f"there is no vocab.txt and no tokenizer.json: {WRITTEN}")
        names = ("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
        settings, *_ = [_read_json(folder / name) for name in names]
        if (kind := settings.get("word_tokenizer_type", "basic")) != "basic":
            raise ValueError(f"it finds a text's words with {kind} (word_tokenizer_type), not as BERT: choose another")
        # Some tokenizers were saved without segment ids among their inputs; some pad or cut on the left.
        own = {"model_input_names": BertTokenizerFast.model_input_names, "model_max_length": MAX_LENGTH}
        own |= {"padding_side": "right", "truncation_side": "right"}
        tokenizer = BertTokenizerFast.from_pretrained(folder, **own)
        vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
        # Without a setting, the library lower-cases every text; but a cased vocabulary has capitals in many words.
        capitals = [word for word in vocabulary if word != word.lower() and not word.startswith("[")]
        if "do_lower_case" not in settings and len(capitals) > 0.01 * len(vocabulary):
            tokenizer = BertTokenizerFast.from_pretrained(folder, do_lower_case=False, **own)
        special = [tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token]
        if special != SPECIAL or not {*SPECIAL} <= {*vocabulary}:
            raise ValueError(
                f"its vocabulary does not have BERT's {', '.join(SPECIAL)}, or its settings name others: copy the right"
                " vocab.txt, in UTF-8 without a byte order mark (BOM), beside the model, or choose another model"
            )
        rows = _read_json(folder / "config.json").get("vocab_size", 30522)
        last = max(tokenizer.get_vocab().values())
        if rows not in range(last + 1, last + 129):  # Some embeddings are padded for GPUs.
            raise ValueError(
                f"its tokenizer has tokens up to number {last}, {tokenizer.convert_ids_to_tokens(last)!r}, but its"
                f" embedding {rows} rows: copy the model's own vocabulary beside it, or call resize_token_embeddings"
                " and save it again"
            )
        return tokenizer


def fingerprint_model(model: str) -> str:
    """Hash all files that define a model, in the order of their names (SHA-256, 16 digits)."""
    digest = hashlib.sha256()
    with _loading(model, "model") as folder:
        _check_config(folder)
        for path in sorted({path for pattern in IDENTITY for path in folder.glob(pattern)}):
            if not path.name.startswith("."):  # macOS's `._model.safetensors`
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def quiet_library() -> Iterator[None]:
    """Silence the libraries' reports and progress bars: on stderr, they would make every notebook's output differ."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    others = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if others:
            enable_progress_bars()


@contextmanager
def _loading(model: str, what: str) -> Iterator[Path]:
    """The model's folder; errors while loading from it become one sentence."""
    with quiet_library():
        folder = find_folder(model)
        try:
            yield folder
        except CourseError:
            raise
        except Exception as error:  # On broken files, the libraries raise errors of many kinds.
            said = first_line(error)
            if isinstance(error, (UnpicklingError, SafetensorError)) or "PytorchStreamReader" in said:
                # torch's advice would be to run any code in it.
                said = "its weights are cut short or of another kind, such as a Git LFS pointer: download them again"
            raise CourseError(f"Could not load the {what} from {model}: {said}.") from error
