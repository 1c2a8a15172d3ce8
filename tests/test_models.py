import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SMALL, VOCABULARY, save_bert, tokenised
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
)

from helpers.models import POLICIES, apply_policy, count_parameters, fingerprint_model, load_classifier, load_tokenizer
from helpers.settings import CourseError, Run, Settings
from helpers.training import build_trainer

# The hub's file to the byte: no model_type, no architectures, 285 bytes.
OLD_CONFIG = (
    '{"hidden_size": 128, "hidden_act": "gelu", "initializer_range": 0.02, "vocab_size": 30522, '
    '"hidden_dropout_prob": 0.1, "num_attention_heads": 2, "type_vocab_size": 2, "max_position_embeddings": 512, '
    '"num_hidden_layers": 2, "intermediate_size": 512, "attention_probs_dropout_prob": 0.1}'
)

COUNTS = {
    "full": (4_386_178, 4_385_920),
    "bitfit": (3_074, 3_072),
    "bitfit+head": (3_330, 3_072),
    "head": (258, 0),
    "bitfit-qi+head": (1_538, 1_280),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "my-model", **SMALL)


@pytest.mark.parametrize("policy", POLICIES)
def test_parameter_counts(bert_tiny: Path, policy: str) -> None:
    model = apply_policy(load_classifier(str(bert_tiny)), "head")
    apply_policy(model, policy)  # It undoes the one before.
    assert (count_parameters(model), count_parameters(model.bert)) == COUNTS[policy]


def test_bitfit_goes_by_the_end_of_the_name() -> None:
    assert POLICIES["bitfit"]("bert.pooler.dense.bias")
    assert not POLICIES["bitfit"]("encoder.relative_attention_bias.weight")


@pytest.mark.parametrize("policy", POLICIES)
def test_training_changes_what_the_policy_names_and_not_a_bit_more(
    small_bert: Path, tmp_path: Path, policy: str
) -> None:
    settings = Settings(model=str(small_bert), build=tmp_path)
    rows, run = tokenised(small_bert), Run(policy, 1e-3, batch_size=4, epochs=2)
    trainer = build_trainer(settings, run, {"train": rows, "validation": rows}, str(small_bert))
    before = {}
    make = trainer.model_init

    def remember(trial=None) -> BertForSequenceClassification:
        model = make(trial)
        before.update((name, parameter.detach().clone()) for name, parameter in model.named_parameters())
        return model

    trainer.model_init = remember
    trainer.train()
    after = dict(trainer.model.named_parameters())
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert trainer.state.global_step == 8
    assert changed == {name for name in after if POLICIES[policy](name)}


def old_folder(folder: Path) -> Path:
    """Write what the hub's bert-tiny repository has: configuration, pickled weights with MLM heads, vocabulary."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(OLD_CONFIG)
    torch.manual_seed(1)
    weights = BertForPreTraining(BertConfig.from_dict(json.loads(OLD_CONFIG))).state_dict()
    weights["bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_bytes(VOCABULARY.read_bytes())
    return folder


def assert_same_encoder(model: BertForSequenceClassification, weights: dict[str, torch.Tensor]) -> None:
    assert model.config.num_labels == 2
    for name, parameter in model.bert.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, weights[name].float()), name


def test_a_folder_of_the_hub_s_old_shape(tmp_path: Path) -> None:
    assert len(OLD_CONFIG) == 285
    folder = old_folder(tmp_path / "distilbert-lookalike")
    weights = torch.load(folder / "pytorch_model.bin")
    assert_same_encoder(load_classifier(str(folder)), {key.removeprefix("bert."): weights[key] for key in weights})
    assert_tokenizer(load_tokenizer(str(folder)))


def test_half_precision_comes_out_in_single(tmp_path: Path) -> None:
    folder = save_bert(tmp_path, torch.float16, **SMALL)
    weights = BertModel.from_pretrained(folder).state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert_same_encoder(load_classifier(str(folder)), weights)


def test_a_fine_tuned_folder_keeps_its_classifier(small_bert: Path, tmp_path: Path) -> None:
    model = load_classifier(str(small_bert))
    model.save_pretrained(tmp_path)
    again = load_classifier(str(tmp_path))
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    assert not torch.equal(load_classifier(str(small_bert)).classifier.weight, model.classifier.weight)


def test_a_loaded_model_has_nothing_to_do_with_its_file_any_more(folder: Path) -> None:
    model, weights = load_classifier(str(folder)), folder / "model.safetensors"
    before = {name: value.clone() for name, value in model.bert.named_parameters()}
    with weights.open("r+b") as file:
        file.write(b"\0" * weights.stat().st_size)
    assert all(torch.equal(value, before[name]) for name, value in model.bert.named_parameters())


def assert_tokenizer(tokenizer) -> None:
    assert tokenizer.model_max_length == 512
    assert tokenizer(["Hello world!", "How are you?"], padding=True)["input_ids"] == [
        [101, 7592, 2088, 999, 102, 0],
        [101, 2129, 2024, 2017, 1029, 102],
    ]
    assert len(tokenizer("word " * 600, truncation=True)["input_ids"]) == 512


def split_weights(folder: Path) -> None:
    """The same model as transformers saves a large one: an index, and its weights in shards."""
    model = BertModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="500KB")
    assert (folder / "model.safetensors.index.json").exists()


def save_tokenizer(folder: Path, **options: bool) -> None:
    """What transformers 5 saves: tokenizer.json and tokenizer_config.json, no vocab.txt."""
    tokenizer = BertTokenizerFast.from_pretrained(folder, **options)
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.txt").exists()


def change_a_shard(folder: Path) -> None:
    (shard, *_) = sorted(folder.glob("model-*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (None, lambda folder: save_bert(folder, torch.float16, **SMALL)),
        (None, lambda folder: (folder / "vocab.txt").write_text("[PAD]\n")),
        (None, lambda folder: (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')),
        (None, lambda folder: (folder / "added_tokens.json").write_text('{"[NEW]": 5}')),
        (None, lambda folder: (folder / "special_tokens_map.json").write_text('{"sep_token": "[PAD]"}')),
        (save_tokenizer, lambda folder: (folder / "tokenizer.json").write_text("{}")),
        (split_weights, change_a_shard),
        (split_weights, lambda folder: (folder / "model.safetensors.index.json").write_text("{}")),
    ],
)
def test_every_file_that_decides_a_model_is_in_its_fingerprint(folder: Path, first, then) -> None:
    if first:
        first(folder)
    before = fingerprint_model(str(folder))
    assert fingerprint_model(str(folder)) == before
    (folder / "README.md").write_text("What it is.")
    (folder / "._model.safetensors").write_text("macOS")
    assert fingerprint_model(str(folder)) == before
    then(folder)
    assert fingerprint_model(str(folder)) != before


def test_weights_in_shards_are_the_same_model(small_bert: Path, folder: Path) -> None:
    split_weights(folder)
    assert_same_encoder(load_classifier(str(folder)), BertModel.from_pretrained(small_bert).state_dict())


def test_a_tokenizer_as_transformers_5_saves_it(folder: Path) -> None:
    """Of a vocabulary alone: see the folder of the hub's old shape."""
    save_tokenizer(folder)
    assert_tokenizer(load_tokenizer(str(folder)))


def test_a_tokenizer_saved_without_segments_or_for_the_left_side_is_read_as_berts(folder: Path) -> None:
    left = {"padding_side": "left", "truncation_side": "left", "model_input_names": ["input_ids", "attention_mask"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(left))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("Hello", "world")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer("A film", truncation=True, max_length=3)["input_ids"] == [101, 1037, 102]
    assert_tokenizer(tokenizer)


CASED = re.sub(rb"\n(h[a-z]+)", lambda word: b"\n" + word[1].capitalize(), VOCABULARY.read_bytes())
FEW = VOCABULARY.read_bytes().replace(b"[unused0]", b"<S>")  # as in Chinese checkpoints


@pytest.mark.parametrize(
    ("words", "settings", "first"),
    [
        (CASED, None, "Hello"),
        (CASED, {}, "Hello"),
        (CASED, {"do_lower_case": True}, "h"),
        (FEW, None, "hello"),
    ],
)
def test_a_cased_vocabulary_keeps_the_capitals_of_the_texts(folder, words: bytes, settings, first: str) -> None:
    """Unless its settings say something else; old checkpoints, such as the hub's bert-tiny, have none."""
    (folder / "vocab.txt").write_bytes(words)
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(str(folder)).tokenize("Hello")[0] == first


def test_added_tokens_are_welcome_where_the_embedding_has_rows_for_them(folder: Path) -> None:
    tokenizer, model = BertTokenizerFast.from_pretrained(folder), BertModel.from_pretrained(folder)
    tokenizer.add_tokens(["[NEW]"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(CourseError, match=r"'\[NEW\]'.*resize_token_embeddings"):
        load_tokenizer(str(folder))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    assert load_classifier(str(folder)).config.vocab_size == len(load_tokenizer(str(folder))) == 30523


def test_what_a_model_was_made_for_besides_is_no_hindrance(folder: Path) -> None:
    configured(output_attentions=True, output_hidden_states=True, is_decoder=True)(folder)
    configured(problem_type="multi_label_classification")(folder)
    model = load_classifier(str(folder))
    assert list(model(torch.tensor([[101, 102]]), labels=torch.tensor([1]))) == ["loss", "logits"]
    first, other = (model.bert(torch.tensor([[101, token]])).last_hidden_state[0, 0] for token in (102, 103))
    assert not torch.equal(first, other), "a decoder's first token does not see the second"
    model.save_pretrained(folder / "again")


@pytest.mark.parametrize(("rows", "tokens"), [(30522, 9000), (5, 30522)])
def test_a_vocabulary_that_is_not_the_embedding_s_is_named(tmp_path: Path, rows: int, tokens: int) -> None:
    """One cut short would read many a word in pieces, or as unknown."""
    folder = save_bert(tmp_path, **SMALL, vocab_size=rows)
    kept = VOCABULARY.read_bytes().splitlines(keepends=True)[:tokens]
    (folder / "vocab.txt").write_bytes(b"".join(kept))
    with pytest.raises(CourseError, match=rf"tokens up to number {tokens - 1}, .* embedding {rows} rows: copy the"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("rows", [30528, 30592])
def test_an_embedding_filled_up_to_a_multiple_is_welcome(tmp_path: Path, rows: int) -> None:
    assert_tokenizer(load_tokenizer(str(save_bert(tmp_path, **SMALL, vocab_size=rows))))


def configured(**changes: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def cut_old(folder: Path) -> None:
    torch.save(BertModel.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    with_file("pytorch_model.bin", (folder / "pytorch_model.bin").read_bytes()[:-1000])(folder)


def not_a_number(folder: Path) -> None:
    model = BertModel.from_pretrained(folder)
    model.pooler.dense.weight.data[0] = torch.nan
    model.save_pretrained(folder)


def with_three_labels(folder: Path) -> None:
    BertForSequenceClassification(BertConfig(**SMALL, num_labels=3)).save_pretrained(folder)


def with_file(name: str, content: bytes) -> Callable[[Path], object]:
    """Another content of a file; the pickle takes the place of the weights."""

    def change(folder: Path) -> None:
        if name == "pytorch_model.bin":
            (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return change


WRONG_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "DistilBERT": (lambda folder: DistilBertConfig().save_pretrained(folder), "model_type is .distilbert., not .bert."),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no config.json: the folder must be one"),
    "a mark": (with_file("config.json", b"\xef\xbb\xbf{}"), "config.json is no JSON .*BOM"),
    "configuration is a list": (with_file("config.json", b"[1, 2]"), "config.json is no JSON object"),
    "configuration of words": (with_file("config.json", b'{"hidden_size": "wide"}'), "Could not load the model"),
    "other size": (configured(hidden_size=8), r"has the shape \(16,\) instead of \(8,\): weights must fit"),
    "few positions": (configured(max_position_embeddings=128), "reads 128 tokens .max_position_embeddings"),
    "heads": (configured(num_attention_heads=3), "hidden size .16. is not a multiple"),
    "more layers": (configured(num_hidden_layers=3), "no weights for 16 tensors"),
    "fewer layers": (configured(num_hidden_layers=1), "no layer by its config.json"),
    "quantised": (configured(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised.*ordinary weights"),
    "a lost shard": (lambda folder: [split_weights(folder), next(folder.glob("*-00002-*")).unlink()], "model-00002"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "weights cut short": (cut, "its weights are cut short or of another kind.*: download them again"),
    "weights of the old kind cut short": (cut_old, "its weights are cut short or of another kind"),
    "a page in place of weights": (with_file("pytorch_model.bin", b"<!DOCTYPE html>"), "cut short or of another kind"),
    "a pointer": (with_file("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "not a number": (not_a_number, "pooler.* numbers that are not finite: copy"),
    "three labels": (with_three_labels, r"classifier.bias has the shape \(3,\).* must have two labels"),
}


def with_sentencepiece(folder: Path) -> None:
    """The tokenizer of a multilingual MiniLM, which is a BERT model: read as WordPiece, it knows no word."""
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁good", -1.0)]
    model = {"type": "Unigram", "unk_id": 1, "vocab": pieces}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))


NO_VOCABULARY = r"its vocabulary does not have BERT's \[PAD\], .*: copy the right vocab.txt"
WRONG_TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a page": (with_file("tokenizer_config.json", b"<!DOCTYPE html>"), "its tokenizer_config.json is no JSON object"),
    "a tokenizer cut short": (with_file("tokenizer.json", b'{"model"'), "its tokenizer.json is no JSON object"),
    "SentencePiece": (with_sentencepiece, NO_VOCABULARY),
    "other marks": (with_file("tokenizer_config.json", b'{"cls_token": "<s>"}'), NO_VOCABULARY),
    "Japanese": (with_file("tokenizer_config.json", b'{"word_tokenizer_type": "mecab"}'), "words with mecab"),
    "an empty vocabulary": (with_file("vocab.txt", b""), NO_VOCABULARY),
    "a vocabulary in UTF-16": (with_file("vocab.txt", b"\xff\xfe[PAD]"), "not load the tokenizer .*: .*UTF-8"),
    "a vocabulary with a mark": (with_file("vocab.txt", b"\xef\xbb\xbf" + VOCABULARY.read_bytes()), NO_VOCABULARY),
    "no vocabulary": (lambda folder: (folder / "vocab.txt").unlink(), "there is no vocab.txt and no tokenizer.json"),
}
CASES = {name: (load_classifier, *case) for name, case in WRONG_MODELS.items()}
CASES |= {name: (load_tokenizer, *case) for name, case in WRONG_TOKENIZERS.items()}


@pytest.mark.parametrize("case", CASES)
def test_wrong_models_and_tokenizers_are_named(folder: Path, case: str) -> None:
    load, change, message = CASES[case]
    change(folder)
    with pytest.raises(CourseError, match=message) as caught:
        load(str(folder))
    assert "my-model" in str(caught.value)


@pytest.mark.parametrize("load", [load_classifier, load_tokenizer, fingerprint_model])
@pytest.mark.parametrize("folder", ["./nowhere", "/no/such/nowhere", "https://hub.co/me/nowhere"])
def test_a_missing_folder_is_named(load: Callable, folder: str) -> None:
    with pytest.raises(CourseError, match=r"no model folder .*nowhere.*Give a hub id \(OWNER/NAME\) or a folder\."):
        load(folder)
