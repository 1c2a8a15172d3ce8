"""One check for each code problem: it prints one line if the solution is right, or else names the mistake."""

from collections.abc import Callable

from helpers.checks.judge import CheckFailed, judge
from helpers.recipe import explain_imports
from helpers.results import EXERCISES
from helpers.settings import OFFLINE

__all__ = ["CheckFailed", "judge", "problem_1d", "problem_2a", "problem_2b", "problem_2c"]
MODEL = str(OFFLINE / "checkpoint")


def problem_1d(preprocess_dataset: Callable, model: str = MODEL) -> None:
    """Check ids, segments, mask and label of short reviews, then of long ones too."""
    _check("1d", model, preprocess_dataset)


def problem_2a(init_model: Callable, model: str = MODEL) -> None:
    """Check the weights, and which parameters are trained, with and without BitFit."""
    _check("2a", model, init_model)


def problem_2b(init_trainer: Callable, init_tester: Callable, model: str = MODEL) -> None:
    """Check the recipe and the accuracy that the Trainer measures, then test a model saved for the purpose."""
    _check("2b", model, init_trainer, init_tester)


def problem_2c(hyperparameter_search_settings: Callable, model: str = MODEL) -> None:
    """Run the search with a dummy Trainer and made-up accuracies; check which cells it tries and which it prefers."""
    _check("2c", model, hyperparameter_search_settings)


def _check(problem: str, model: str, *solutions: Callable) -> None:
    from helpers.checks.inputs import expect, give_public
    from helpers.checks.observe import observe, quiet_workshop
    from helpers.prepare import refresh_exercises

    refresh_exercises()
    if said := explain_imports(EXERCISES.read_bytes()):
        raise CheckFailed(f"Problem {problem}: {said}")
    with quiet_workshop():
        given = give_public(problem, str(model))
        expected = expect(problem, given)
        seen = observe(problem, solutions, given)
    print(judge(problem, seen, expected))
