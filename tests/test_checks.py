"""Every check passes the right solution and none of the wrong ones."""

import copy
import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
from conftest import NOTEBOOKS
from datasets import Dataset
from solutions import OTHER_RIGHT, WRONG, make_tester, saved, trainer_with
from transformers import BertModel, TrainingArguments

from helpers import checks, exercises, recipe
from helpers.checks import CheckFailed, inputs, judge, problem_1d, problem_2a, problem_2b, problem_2c
from helpers.checks.describe import describe_error, make_plain
from helpers.checks.inputs import expect, give_public
from helpers.checks.observe import OBSERVERS
from helpers.models import count_parameters, load_tokenizer
from helpers.recipe import FUNCTIONS
from helpers.settings import Settings

RIGHT = {problem: tuple(getattr(exercises, name) for name in names) for problem, names in FUNCTIONS.items()}
CHECKS = {"1d": problem_1d, "2a": problem_2a, "2b": problem_2b, "2c": problem_2c}
SAID = {
    "1d": "Every review is 512 ids, segments and mask values, and keeps its label.",
    "2a": "bitfit trains 3,074 of 4,386,178 parameters, all of them biases.",
    "2b": "The Trainer measures the accuracy after each of 4 epochs, and the tester has the saved model.",
    "2c": "The search tries each of the 20 cells once, prunes none, and prefers the most accurate.",
}


CELLS = [cell for path in NOTEBOOKS for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
CASES = [pytest.param(key, *case[1:], id=f"{key} {case[0]}") for key, cases in WRONG.items() for case in cases]


def solve(key: str, solution: Callable) -> tuple[str, tuple[Callable, ...]]:
    """The problem, and its solutions with one of them replaced."""
    if key == "2b tester":
        return "2b", (exercises.init_trainer, solution)
    return key, (solution, *RIGHT[key][1:])


@pytest.mark.parametrize("problem", CHECKS)
def test_the_right_solution_passes_in_one_line_and_leaves_nothing_behind(
    bert_tiny: Path, capsys, monkeypatch, tmp_path: Path, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    build = BertModel.__init__
    CHECKS[problem](*RIGHT[problem], model=bert_tiny)
    said = capsys.readouterr()
    assert said.out == f"Problem {problem}: correct. {SAID[problem]}\n" and said.err == ""
    assert os.getcwd() == str(tmp_path) and os.listdir(tmp_path) == []
    assert BertModel.__init__ is build


@pytest.fixture(scope="module")
def public(bert_tiny: Path, small_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict, dict]]:
    """The inputs of each problem's check, and what is right on them."""
    with pytest.MonkeyPatch.context() as patch:
        found = {}
        for problem in CHECKS:
            patch.chdir(tmp_path_factory.mktemp(problem))
            given = give_public(problem, str(small_bert if problem == "2b" else bert_tiny))
            found[problem] = given, expect(problem, given)
        return found


@pytest.fixture
def made_once(public, monkeypatch) -> None:
    """Checks make neither their inputs nor what is right on them anew each time."""
    monkeypatch.setattr(inputs, "give_public", lambda problem, model: public[problem][0])
    monkeypatch.setattr(inputs, "expect", lambda problem, given: public[problem][1])


@pytest.mark.parametrize(("key", "solution", "words"), CASES)
def test_a_wrong_solution_is_named(made_once, capsys, key, solution, words: str) -> None:
    problem, solutions = solve(key, solution)
    with pytest.raises(CheckFailed) as caught:
        CHECKS[problem](*solutions)
    said = str(caught.value)
    assert said.startswith(f"Problem {problem}: ") and words in said
    assert "\n" not in said and len(said) < 600
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "correct" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
@pytest.mark.parametrize("name", OTHER_RIGHT)
def test_another_right_solution_passes(made_once, bert_tiny: Path, capsys, name: str) -> None:
    problem, solutions = solve(name[:2], OTHER_RIGHT[name])
    CHECKS[problem](*solutions)
    assert capsys.readouterr().out == f"Problem {problem}: correct. {SAID[problem]}\n"
    # The cell below the check shows what the function does.
    position = next(at for at, cell in enumerate(CELLS) if cell.source.startswith(f"checks.problem_{problem}("))
    scope = {"settings": Settings(model=str(bert_tiny)), "tokenizer": load_tokenizer(str(bert_tiny))}
    functions = dict(zip(FUNCTIONS[problem], solutions, strict=True))
    scope |= {"exercises": SimpleNamespace(**vars(exercises) | functions)}
    scope |= {"reviews": {"train": Dataset.from_dict({"text": ["Good."] * 8, "label": [0, 1] * 4})}}
    exec(CELLS[position + 1].source, scope | {"count_parameters": count_parameters})
    shown = capsys.readouterr().out.splitlines()
    assert problem == "2c" or shown == [line for o in CELLS[position + 1].outputs for line in o.text.splitlines()]


@pytest.mark.parametrize("said", ["name 'accuracy_score' is not defined", "'dict' object has no attribute 'to'"])
def test_an_error_that_only_looks_like_another_gets_no_hint(said: str) -> None:
    assert describe_error(TypeError(said), ()).endswith(f": {said}")


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingArguments)])
def test_check_and_training_agree_on_every_field(public, monkeypatch, tmp_path: Path, name: str) -> None:
    """What is not refused by name makes no difference to what training takes from the Trainer's arguments."""
    monkeypatch.chdir(tmp_path)
    (given, expected), plain = public["2b"], TrainingArguments("there", **recipe.ASKED)
    init_trainer = trainer_with(change=lambda trainer: setattr(trainer.args, name, "another"))
    trainer = next(OBSERVERS["2b"](given, init_trainer, exercises.init_tester))
    with pytest.raises(CheckFailed) as caught:
        judge("2b", make_plain({"records": [trainer], "stopped": None}), expected)
    changed = copy.copy(plain)
    setattr(changed, name, "another")
    makes_no_difference = recipe.take_checked(changed) == recipe.take_checked(plain)
    if name not in recipe.CHECKED:
        assert "it ended too early" in str(caught.value) and makes_no_difference
        assert (name in trainer["overridden"]) == (name not in recipe.QUIET)
    else:
        assert f"{name}: expected" in str(caught.value) and not makes_no_difference


def test_what_training_and_testing_set_themselves_is_said(small_bert: Path, capsys) -> None:
    trainer = trainer_with(args={"learning_rate": 0.1, "full_determinism": True})
    problem_2b(trainer, make_tester(saved, fp16_full_eval=True), model=small_bert)
    assert capsys.readouterr().out.endswith("whatever you gave: learning_rate, full_determinism, fp16_full_eval.\n")
    assert not torch.are_deterministic_algorithms_enabled(), "they would stay on in the kernel"


class Called(BaseException):
    """Passes through every `except Exception` on its way."""


@pytest.mark.parametrize("problem", CHECKS)
def test_a_check_depends_on_no_other_problem_s_function(small_bert: Path, capsys, problem: str) -> None:
    """So a wrong function is caught by its own problem's check and by no other."""

    def must_not_be_called(*arguments, **options):
        raise Called

    others = [name for other, names in FUNCTIONS.items() if other != problem for name in names]
    module = ModuleType("exercises_copy")
    exec(compile(inspect.getsource(exercises), exercises.__file__, "exec"), vars(module))
    vars(module).update(dict.fromkeys(others, must_not_be_called))
    CHECKS[problem](*(getattr(module, name) for name in FUNCTIONS[problem]), model=small_bert)
    assert capsys.readouterr().out.startswith(f"Problem {problem}: correct.")
    assert all(getattr(module, name) is must_not_be_called for name in others)


def test_check_2b_calls_init_model_with_the_parameters_that_the_student_gave_it(small_bert: Path, capsys) -> None:
    called = inspect.getsource(exercises).replace(
        "(trial, model_name, use_b", "(trial, name=model_name, use_bitfit=use_b"
    )
    renamed = called.replace("Any, model_name: str, use_bitfit", "Any, name: str, verbose: bool = False, *, use_bitfit")
    for code, said in ((renamed, "2b: correct"), (called, "missing a required argument: 'model_name'")):
        module = ModuleType("exercises_copy")
        exec(compile(code, exercises.__file__, "exec"), vars(module))
        try:
            problem_2b(module.init_trainer, module.init_tester, model=small_bert)
        except CheckFailed as failure:
            print(failure)
        assert said in capsys.readouterr().out


def test_what_the_grader_may_not_have_is_said_before_any_training(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checks, "EXERCISES", tmp_path / "exercises.py")
    (tmp_path / "exercises.py").write_text("def init_trainer():\n    import evaluate\n")
    with pytest.raises(CheckFailed, match="Problem 2b: exercises.py imports evaluate, which the grader may not have"):
        problem_2b(exercises.init_trainer, exercises.init_tester)


@pytest.mark.parametrize("problem", CHECKS)
@pytest.mark.parametrize(
    "seen",
    [None, {}, {"records": [{}] * 99, "stopped": None}, {"records": [], "stopped": None}],
    ids=repr,
)
def test_a_forged_observation_never_passes(public, problem: str, seen: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017
        judge(problem, seen, public[problem][1])


def test_notebooks_show_the_message_alone() -> None:
    assert CheckFailed("Problem 2a: no.")._render_traceback_() == ["CheckFailed: Problem 2a: no."]


def test_training_reads_what_check_1d_passes_and_says_why_it_cannot_read_the_rest() -> None:
    data = Dataset.from_dict({name: [[1, 0], [1, 1]] for name in recipe.COLUMNS[:3]} | {"label": [0, 1]})
    assert recipe.read_rows(data, 1, 2) == dict.fromkeys(recipe.COLUMNS[:3], [[1, 1]]) | {"label": [1]}
    assert recipe.read_rows(data.with_format("torch"), 0, 2) == recipe.read_rows(data, 0, 2) == data[:]
    with pytest.raises(ValueError, match="column label: expected there, but it is hidden by the data set's format"):
        recipe.read_rows(data.with_format("numpy", columns=["input_ids"]), 0, 2, ("input_ids", "label"))
    with pytest.raises(ValueError, match="label of review 1: expected an integer, found nan"):
        recipe.read_rows(data.remove_columns("label").add_column("label", [0.0, float("nan")]), 1, 2)
