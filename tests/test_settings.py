import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from helpers.recipe import ASKED
from helpers.settings import OFFLINE, CourseError, Run, load_settings, project_folder, write_atomically


@pytest.fixture(autouse=True)
def no_course_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROFILE", "MODEL", "DATA", "BUILD"):
        monkeypatch.delenv(f"COURSE_{name}", raising=False)


def test_quick_needs_only_the_package_and_full_the_hub() -> None:
    quick, full = load_settings(), load_settings("full")
    assert quick.profile == "quick"
    assert (Path(quick.model), Path(quick.data)) == (OFFLINE / "checkpoint", OFFLINE / "reviews")
    assert (full.model, full.data) == ("prajjwal1/bert-tiny", "stanfordnlp/imdb")
    assert load_settings(model="prajjwal1/bert-tiny/").model == full.model
    assert replace(quick, model=Path(quick.model), data=Path(quick.data)) == quick, "a folder may be a Path"
    assert load_settings(model=Path("prajjwal1/bert-tiny")).model == full.model


@pytest.mark.parametrize("sizes", [[8, 16], (8.0, 16.0), range(8, 17, 8), np.array([8, 16]), [np.int64(8), 16]])
def test_a_grid_may_be_given_as_what_holds_numbers(sizes, tmp_path: Path) -> None:
    small = replace(load_settings(), learning_rates=np.float32(0.5), batch_sizes=sizes, seed=np.int64(1))
    assert small.cells == [(0.5, 8), (0.5, 16)] and {small}, "workers remember by its hash what they have prepared"
    assert small.recipe()["seed"] == 1 and replace(small, build=str(tmp_path)).folder == tmp_path / "quick"


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch_sizes", "8"), ("batch_sizes", [8, 0]), ("epochs", "2"), ("precision", "fp8")]
    + [("test_size", 0), ("test_size", 1.5), ("split_seed", -1), ("seed", None)],
)
def test_settings_that_make_no_sense_are_refused_at_once(name: str, value: object) -> None:
    with pytest.raises(CourseError, match=f"{name.removesuffix('s')}.*(must be|Choose one of)"):
        replace(load_settings(), **{name: value})


def test_an_argument_wins_over_the_environment_and_that_over_the_profile(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "full")
    monkeypatch.setenv("COURSE_MODEL", "owner/from-environment")
    monkeypatch.setenv("COURSE_DATA", f'"{tmp_path}"')
    settings = load_settings(model="owner/from-argument")
    assert (settings.profile, settings.model, settings.data) == ("full", "owner/from-argument", str(tmp_path))
    assert load_settings("quick").profile == "quick"


def test_a_folder_is_found_from_the_notebooks_folder_too(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert load_settings(data="mine").data == str(tmp_path / "mine")
    assert load_settings().build == tmp_path / "build"
    for given, name in (("runs", "runs"), ('"runs"', "runs"), (" ", "build")):
        monkeypatch.setenv("COURSE_BUILD", given)
        assert load_settings().build == tmp_path / name, "commands in the folder above find the same"


@pytest.mark.parametrize(("name", "reason"), [("a" * 300, "name too long"), ("loop", "symbolic links")])
def test_a_path_that_cannot_be_looked_at_is_named_with_the_reason(monkeypatch, tmp_path: Path, name, reason) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for variable in ("model", "data"):
        with pytest.raises(CourseError, match=f"Cannot read .*{name}: .*{reason}.* Give another"):
            load_settings(**{variable: name})


def test_a_home_folder_is_found_where_there_is_one(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_BUILD", "~/build")
    (tmp_path / "mine").mkdir()
    settings = load_settings(model="~no-such-user/x", data="~/mine")
    assert (settings.model, settings.data) == ("~no-such-user/x", str(tmp_path / "mine"))
    assert settings.build == tmp_path / "build"


def test_the_line_about_the_settings_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    assert str(load_settings()) == "profile quick · model offline checkpoint · data offline reviews"
    assert str(load_settings("full")) == "profile full · model prajjwal1/bert-tiny · data stanfordnlp/imdb"
    assert str(load_settings(data=str(tmp_path))) == f"profile quick · model offline checkpoint · data {tmp_path.name}"


def test_the_recipe_is_the_same_for_both_profiles_and_survives_json() -> None:
    recipe = load_settings().recipe()
    assert recipe == load_settings("full", precision="fp32").recipe() == json.loads(json.dumps(recipe))
    assert {"learning_rates", "batch_sizes", "epochs", "split_seed"} <= set(recipe)
    assert recipe["epochs"] == ASKED["num_train_epochs"], "the student's Trainer has the course's epochs"
    assert not {"model", "data", "build"} & set(recipe)


def test_writing_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_atomically(path, "old")
    write_atomically(path, "new · ü\n")
    assert path.read_bytes() == "new · ü\n".encode()
    write_atomically(path, b"\0")
    assert path.read_bytes() == b"\0"
    assert os.listdir(path.parent) == ["file.json"]


def test_a_full_disk_leaves_the_old_file_whole(monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(CourseError, match="No space left on device. Free some disk space."):
        write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]


def test_the_project_is_above_notebooks_unless_it_is_itself_called_that(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "notebooks" / "helpers").mkdir(parents=True)
    (tmp_path / "notebooks" / "notebooks").mkdir()
    for here in ("notebooks", "notebooks/notebooks"):
        monkeypatch.chdir(tmp_path / here)
        assert project_folder() == tmp_path / "notebooks"


def test_a_folder_that_was_replaced_meanwhile_is_one_sentence(monkeypatch, tmp_path: Path) -> None:
    """A new download in place of the old one, say, beside an open terminal."""
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    (tmp_path / "old").rmdir()
    with pytest.raises(CourseError, match="no longer exists. Change to the assignment's folder again"):
        load_settings(data="mine")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learning_rate", "1e-3", "a number of 0 or more, but is '1e-3'"),
        ("learning_rate", float("nan"), "a number of 0 or more"),
        ("learning_rate", np.array([1e-3, 1e-4]), "a number of 0 or more"),
        ("head_scale", float("inf"), "a number of 0 or more"),
        ("batch_size", 2.5, "a whole number of 1 or more"),
        ("epochs", 0, "a number of 0.001 or more"),
        ("reviews", 0, "a whole number of 1 or more"),
        ("tokens", None, "a whole number from 2 to 512"),
        ("tokens", 513, "a whole number from 2 to 512"),
        ("seed", -1, "a whole number from 0 to 4294967295"),
        ("policy", ("full", "bitfit"), "must be one name"),
    ],
)
def test_a_run_of_values_that_make_no_sense_is_refused_by_name(name: str, value: object, words: str) -> None:
    with pytest.raises(CourseError, match=f"{name}.* {words}"):
        Run(**{"policy": "head"} | {name: value})


def test_the_numbers_of_numpy_are_a_runs_numbers() -> None:
    """As in `for seed in np.arange(3)`: records are JSON, which knows Python's alone."""
    run = Run("head", np.float64(1e-3), np.int32(8), np.int64(2), epochs=np.float32(2), reviews=2e4)
    assert run == Run("head", 1e-3, 8, 2, epochs=2, reviews=20_000) and json.dumps(asdict(run))
    assert asdict(Run("head", reviews=None, validation=None)) == asdict(Run("head"))
