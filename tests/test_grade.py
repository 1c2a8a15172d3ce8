"""Grading: what is read, what is judged, what is written; and hostile submissions, each with the points it deserves."""

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("helpers.instructor", reason="the student version has no grader")

from hostile import (
    ALL,
    MISTAKES,
    NONE,
    ROOT,
    SLEEP,
    SOLUTION,
    STUBS,
    THOROUGH,
    all_hostile,
    build,
    course_notebook,
    with_cells,
)

from helpers import answers
from helpers.checks import judge
from helpers.instructor import gradescope, rebuild, sandbox
from helpers.instructor.grade import (
    AUTOMATIC,
    WRITTEN,
    Grader,
    describe_results,
    fence,
    grade_class,
    judge_outcome,
    read_strictly,
    write_answers,
    write_sheet,
    write_table,
)
from helpers.instructor.rebuild import read_cells
from helpers.instructor.sandbox import MEBI, Limits, Outcome
from helpers.instructor.unpack import NOTEBOOKS, Submission, clean_name, find_submissions, read_submission
from helpers.instructor.workshop import Workshop, can_everybody_read
from helpers.settings import CourseError

SMALL = Limits(cpu_seconds=8, memory=500 * MEBI, processes=24, disk=100 * MEBI, files=5000, result=4 * MEBI)
HOSTILE = sorted(set(all_hostile()) - (set() if os.environ.get("COURSE_HOSTILE") == "all" else THOROUGH))


@pytest.fixture(scope="module")
def workshop() -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADER_SECRET", "GRADER_SECRET")
        with Workshop() as workshop:
            yield workshop


def grader_with(workshop: Workshop, seconds: float = 60.0) -> Grader:
    return Grader(workshop, ROOT, "none", replace(SMALL, seconds=seconds))


def grade_code(workshop: Workshop, code: str) -> dict:
    return grader_with(workshop).grade(Submission("ann", {"exercises.py": code.encode()}))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_submission_gets_the_points_it_deserves(workshop: Workshop, tmp_path: Path, name: str) -> None:
    marked = tmp_path / "marked"
    marked.mkdir()
    marked.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        hostile = all_hostile(listener.getsockname()[1], str(marked))[name]
        before = set(os.listdir(workshop.folder))
        record = grader_with(workshop, hostile.seconds).grade(
            read_submission("student", build(hostile, tmp_path, "student"))
        )
        assert record["points"] == hostile.points, record["said"]
        assert hostile.says in write_sheet(record)
        assert record["seconds"] < 4 * hostile.seconds + 30
        if workshop.degree == "namespaces":
            with pytest.raises(BlockingIOError):
                listener.accept()
    assert not os.listdir(marked)
    assert len(set(os.listdir(workshop.folder)) - before) <= 2, "a folder was left behind"  # A server's, if anything.
    assert not sleepers()


def sleepers() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", SLEEP.encode()]:
            found.append(str(path))
    return found


def test_after_all_of_them_a_right_submission_gets_all_points(workshop: Workshop) -> None:
    record = grade_code(workshop, SOLUTION)
    assert record["points"] == ALL and record["automatic"] == sum(AUTOMATIC.values())
    assert all("correct" in said for said in record["said"].values())


@pytest.mark.parametrize("problem", MISTAKES)
def test_a_mistake_costs_its_own_problem_s_points_and_no_other(workshop: Workshop, problem: str) -> None:
    record = grade_code(workshop, SOLUTION + MISTAKES[problem])
    assert record["points"] == ALL | {problem: 0}
    assert record["said"][problem].startswith(f"Problem {problem}: ") and "Hint: " in record["said"][problem]


def test_every_submission_gets_inputs_of_its_own(workshop: Workshop) -> None:
    first, second = (workshop.prepare(seed) for seed in (1, 2))
    again = workshop.prepare(1)
    for problem in AUTOMATIC:
        if problem != "2a":
            assert json.dumps(first[1][problem]) != json.dumps(second[1][problem])
    assert again[1]["1d"] == first[1]["1d"] and again[1]["2c"] == first[1]["2c"]
    for _, _, folder in (first, second, again):
        sandbox.remove_tree(str(folder))


def test_an_answer_for_one_input_is_wrong_for_another(workshop: Workshop) -> None:
    given, expected, folder = workshop.prepare(1)
    _, others, other_folder = workshop.prepare(2)
    path = workshop.make_folder() / "exercises.py"
    path.write_text(SOLUTION)
    for problem in AUTOMATIC:
        details = {"problem": problem, "given": given[problem], "exercises": str(path)}
        outcome = workshop.run("observe", SMALL, (folder, path.parent), {}, **details)
        seen = outcome.result.partition("\n")[2]
        assert "correct" in judge(problem, json.loads(seen), expected[problem])
        assert not judge_outcome(problem, outcome, others[problem], SMALL)[1]
    for place in (folder, other_folder, path.parent):
        sandbox.remove_tree(str(place))


@pytest.mark.parametrize(
    "result",
    ["", "x", "{}", '"imported"', '"imported"\n', '"imported"\n{', '"imported"\nnull', '"imported"\n[]', "\0" * 99]
    + ['"imported"\n' + "[" * 10**6, '"imported"\n{"records": NaN, "stopped": null}', '"imported"\n' + "9" * 10**5]
    + ['"imported"\n{"records": [], "stopped": "I am right. correct."}'],
)
def test_what_is_no_observation_earns_nothing(result: str) -> None:
    for problem in AUTOMATIC:
        said, passed = judge_outcome(problem, Outcome(result=result), {}, SMALL)
        assert not passed and said.startswith(f"Problem {problem}: ")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "1e999", '{"a": -1e999}'])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        read_strictly(text)


@pytest.mark.parametrize(
    ("reason", "words"),
    [("time", "within 8 s"), ("memory", "500 MiB"), ("processes", "24 processes"), ("disk", "100 MiB")]
    + [("result", "returned more than 4 MiB"), ("sandbox", "could not be set up")],
)
def test_a_broken_limit_is_named(reason: str, words: str) -> None:
    limits = replace(SMALL, seconds=8)
    assert words in judge_outcome("2a", Outcome(reason=reason), {}, limits)[0]


def write(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, f"# {name}")
    return path


@pytest.mark.parametrize(
    "names",
    [("exercises.py",), ("helpers/exercises.py",), ("ann/exercises.py", "ann/notebooks/01_bert_inputs.ipynb")]
    + [("a/b/exercises.py", "a/b/x"), ("__MACOSX/._x", "ann/helpers/exercises.py", "ann/.DS_Store")],
)
def test_exercises_are_found_where_students_put_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    submission = read_submission("ann", write(tmp_path / "ann.zip", *names))
    assert submission.exercises.decode().endswith("exercises.py") and not submission.refused


def test_a_zip_and_a_folder_with_the_same_files_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "ann"
    (folder / "notebooks").mkdir(parents=True)
    files = {"exercises.py": "1", NOTEBOOKS[0]: "2", "other.txt": "3"}
    with zipfile.ZipFile(tmp_path / "ann.zip", "w") as archive:
        for name, text in files.items():
            (folder / name).write_text(text)
            archive.writestr(name, text)
    one, other = read_submission("a", folder), read_submission("a", tmp_path / "ann.zip")
    assert one.files == other.files and one.fingerprint() == other.fingerprint() and len(one.files) == 2


def test_a_folder_of_submissions_is_a_class_with_different_names(tmp_path: Path) -> None:
    for name in ("ann.zip", "Ann.zip", "bob smith.zip", "=cmd|' !A0.zip", "note.txt"):
        write(tmp_path / name, "exercises.py")
    (tmp_path / "carla" / "notebooks").mkdir(parents=True)
    names = [name for name, _ in find_submissions([tmp_path])]
    assert sorted(names) == ["Ann", "ann-2", "bob_smith", "carla", "cmd_A0"]
    assert [name for name, _ in find_submissions([tmp_path / "carla"])] == ["carla"]


@pytest.mark.parametrize(
    ("name", "clean"), [("../../x", "x"), ("a/b", "a_b"), ("", "submission"), ("…", "submission"), ("Zoë", "Zoë")]
)
def test_a_student_s_name_is_safe_as_a_file_s(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_the_prompts_are_those_of_the_course() -> None:
    assert set(answers.PROMPTS) <= set(rebuild.PROMPTS) and rebuild.PROMPTS[1] == answers.PROMPT
    assert tuple(answers.TITLES) == rebuild.WRITTEN == tuple(WRITTEN)


def answer_with(text: str) -> bytes:
    return with_cells(lambda cells: [cell | {"source": text} if cell["id"] == "answer-1b" else cell for cell in cells])


def test_an_answer_is_put_into_the_course_s_notebook_and_nothing_else_is() -> None:
    def change(cells: list[dict]) -> list[dict]:
        edited = [cell | {"source": "import os"} if cell["id"] == "encode-two" else cell for cell in cells]
        edited = [cell | {"source": "Mine."} if cell["id"] == "answer-1b" else cell for cell in edited]
        return [{"id": "new", "cell_type": "code", "source": "1 / 0"}, *edited[:-1]]

    course = course_notebook()
    rebuilt = rebuild.rebuild(course, with_cells(change))
    assert [cell["id"] for cell in rebuilt.notebook["cells"]] == [cell["id"] for cell in course["cells"]]
    changed = [
        cell["id"]
        for cell, before in zip(rebuilt.notebook["cells"], course["cells"], strict=True)
        if cell["source"] != before["source"]
    ]
    assert changed == ["answer-1b"] and rebuilt.answers == {"1b": "Mine."} and rebuilt.unplaced == ["1 / 0"]
    said = "; ".join(rebuilt.notes)
    assert "cells changed" in said and "encode-two" in said and "cells deleted" in said and "1 cells added" in said


def test_the_course_s_own_answers_are_never_a_student_s() -> None:
    for data in (None, b"", b"[]", with_cells(lambda cells: [cell for cell in cells if "answer" not in cell["id"]])):
        rebuilt = rebuild.rebuild(course_notebook(), data)
        assert rebuilt.answers == {}
        (answer,) = (cell for cell in rebuilt.notebook["cells"] if cell["id"] == "answer-1b")
        assert answer["source"] == rebuild.PROMPTS[1]


def test_of_cells_with_the_same_id_the_first_counts() -> None:
    def twice(cells: list[dict]) -> list[dict]:
        (answer,) = (cell for cell in cells if cell["id"] == "answer-1b")
        return [answer | {"source": "First."}, *cells, answer | {"source": "Last."}]

    assert rebuild.rebuild(course_notebook(), with_cells(twice)).answers == {"1b": "First."}


@pytest.mark.parametrize("id", [None, "", "new", 7, "answer-1c"])
def test_an_answer_without_its_id_is_found_by_its_tags(id: object) -> None:
    data = with_cells(
        lambda cells: [cell | {"id": id, "source": "Mine."} if cell["id"] == "answer-1b" else cell for cell in cells]
    )
    assert rebuild.rebuild(course_notebook(), data).answers == {"1b": "Mine."}


@pytest.mark.parametrize("prompt", rebuild.PROMPTS)
def test_a_prompt_is_no_answer(prompt: str) -> None:
    assert rebuild.rebuild(course_notebook(), answer_with(f"{prompt}\n")).answers == {}


def test_an_answer_hides_nothing_and_is_no_longer_than_can_be_read() -> None:
    text = rebuild.rebuild(course_notebook(), answer_with("seen \u202e \x1b[8m \u200b" + "x" * 10**6)).answers["1b"]
    assert text.startswith("seen \\u202e \\u001b[8m \\u200b") and len(text) < 21_000 and "more characters]" in text


@pytest.mark.parametrize("text", ["```", "``````\n# Title", "<!-- -->", "a\n````\nb"])
def test_a_fence_cannot_be_closed_from_within(text: str) -> None:
    first, *_, last = fence(text).splitlines()
    assert last == first.removesuffix("text") and last not in text and set(last) == {"`"}


def test_cells_of_any_kind_are_read_without_a_crash() -> None:
    odd = [None, 1, [], "x", {}, {"id": []}, {"source": {"a": 1}}, {"source": ["a", 1, None], "metadata": 3}]
    cells = read_cells(json.dumps({"cells": odd}).encode())
    assert [cell["source"] for cell in cells] == ["", "", "", "a"]


def record_of(student: str = "ann", **changes: object) -> dict:
    record = {"student": student, "refused": "", "points": dict(ALL), "said": dict.fromkeys(ALL, "correct")}
    record |= {"notes": [], "answers": {"1b": "Mine."}, "unplaced": [], "notebooks": [], "results": []}
    record |= {"isolation": ["in force"], "why_not_better": [], "limits": "few", "automatic": 60}
    return record | {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory": MEBI} | changes


def test_the_table_keeps_the_points_that_a_person_has_entered(tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    path.write_text(write_table([record_of("ann"), record_of("bob")], path))
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    rows[1]["1b"] = "7"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    again = list(csv.DictReader(io.StringIO(write_table([record_of("bob"), record_of("eve")], path))))
    assert [(row["student"], row["1b"], row["automatic"], row["of"]) for row in again] == [
        ("bob", "7", "60", "60"),
        ("eve", "", "60", "60"),
    ]


@pytest.mark.parametrize("sign", "=+-@")
def test_a_spreadsheet_takes_no_cell_for_a_formula(tmp_path: Path, sign: str) -> None:
    record = record_of(f"{sign}cmd|'/c calc'!A0", notes=[f"{sign}1+1", 'two,"quotes"\nlines'])
    (row,) = csv.DictReader(io.StringIO(write_table([record], tmp_path / "none.csv")))
    assert all(value[:1] not in "=+-@" or value == "" for value in row.values())


def test_answers_are_grouped_by_problem_with_open_points() -> None:
    text = write_answers([record_of("ann"), record_of("bob", answers={}, unplaced=["extra"])])
    first, second = text.index("### 1b · ann"), text.index("### 1b · bob")
    assert first < second < text.index("### 1c · ann") and text.count("Points: ____ of 10") == 8
    assert "Mine." in text and "extra" in text


def test_results_are_described_and_earn_nothing() -> None:
    data = (ROOT / "results" / "quick.json").read_bytes()
    code = json.loads(data)["provenance"]["code"]
    full, bitfit, made = describe_results(data, code)
    assert (
        f"validation {json.loads(data)['policies']['full']['best']['validation_accuracy']:.4f}" in full
        and "3,074" in bitfit
        and "made by the same code as handed in" in made
    )
    assert "ODD" not in full + bitfit
    forged = json.loads(data)
    forged["policies"]["full"]["test"]["accuracy"] = 1.5
    forged["policies"]["bitfit"]["cells"].pop()
    full, bitfit, made = describe_results(json.dumps(forged).encode(), "another")
    assert "an accuracy that is none" in full and "19 different cells" in bitfit and "other code" in made


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"{}", b'{"provenance": 1, "policies": {}}', b"[" * 10**5])
def test_results_that_are_none_do_no_harm(data: bytes) -> None:
    assert describe_results(data, "") == ["results.json is not a results file."]


def test_a_class_is_graded_once_and_again_only_where_something_changed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    subs, out = tmp_path / "subs", tmp_path / "grades"
    for name, code in (("ann", SOLUTION), ("bob", STUBS)):
        (subs / name).mkdir(parents=True)
        (subs / name / "exercises.py").write_text(code)
    said: list[str] = []
    arguments = {"workers": 2, "notebooks": "none", "limits": replace(SMALL, seconds=60), "say": said.append}
    first = grade_class([subs], out, **arguments)
    assert [record["automatic"] for record in first] == [60, 0]
    assert {"ann.md", "bob.md", "grades.csv", "answers_to_read.md"} <= set(os.listdir(out))
    (subs / "bob" / "exercises.py").write_text(SOLUTION + MISTAKES["2a"])
    changed = {path: path.stat().st_mtime_ns for path in out.glob("*.md")}
    second = grade_class([subs], out, **arguments)
    assert [record["automatic"] for record in second] == [60, 50] and second[0] == first[0]
    assert (out / "ann.md").stat().st_mtime_ns == changed[out / "ann.md"]
    assert (out / "bob.md").stat().st_mtime_ns != changed[out / "bob.md"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_grading_tidies_up_and_keeps_no_half_grade(tmp_path: Path, number: int) -> None:
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "exercises.py").write_text("import os, time\nprint('here')\ntime.sleep(1e6)")
    command = [sys.executable, "-m", "helpers", "grade", str(tmp_path / "bob"), "--out", str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE}
    # A shell that runs the tests in its background has them ignore Ctrl-C, and their children with them.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen([*command, "--no-notebooks"], **options) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("grading-*/*/scratch")) and not list(tmp_path.glob("grading-*/*/exercises.py")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(number)
        said = process.stderr.read().decode()
        assert process.wait(30) == 130, said
    assert "Stopped." in said and not list(tmp_path.glob("grading-*")) and not list((tmp_path / "out").glob("*.md"))
    assert not list((tmp_path / "out" / "records").iterdir())


def test_a_solution_that_everybody_can_read_is_noticed(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    (folder / "exercises.py").write_text("x")
    (folder / "exercises.py").chmod(0o644)
    assert can_everybody_read(folder / "exercises.py")
    folder.chmod(0o700)
    assert not can_everybody_read(folder / "exercises.py") and not can_everybody_read(tmp_path / "gone")
    sandbox.remove_tree(str(folder))


def test_a_sandbox_that_fails_is_no_verdict(workshop: Workshop, monkeypatch) -> None:
    monkeypatch.setattr(workshop, "run", lambda *a, **k: Outcome(reason="sandbox", output="no room"))
    record = grade_code(workshop, SOLUTION)
    assert not record["graded"] and record["automatic"] == 0 and "FAILED: run the same" in write_sheet(record)


def test_a_submission_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no submission .*gone.zip"):
        grade_class([tmp_path / "gone.zip"], tmp_path / "out")


RESULT_FIELDS = {"score", "execution_time", "output", "output_format", "visibility", "stdout_visibility", "tests"}
TEST_FIELDS = {"score", "max_score", "status", "name", "number", "output", "output_format", "visibility"}


def test_gradescope_s_results_follow_its_schema() -> None:
    record = record_of(points=ALL | {"2a": 0}, automatic=50, notebooks=["01: 3 of 3"], notes=["odd"])
    results = json.loads(json.dumps(gradescope.make_results(record)))
    assert set(results) <= RESULT_FIELDS and results["score"] == 50
    scored = [test for test in results["tests"] if "score" in test]
    assert sum(test["score"] for test in scored) == 50 and sum(test["max_score"] for test in scored) == 60
    assert [test["status"] for test in scored] == ["passed", "failed", "passed", "passed"]
    for test in results["tests"]:
        assert set(test) <= TEST_FIELDS and {"name", "output"} <= set(test)
        assert test["visibility"] in ("hidden", "after_due_date", "after_published", "visible")


def test_gradescope_s_zip_is_the_same_every_time_and_has_no_solution(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("one.zip", "two.zip"):
        gradescope.write_autograder(tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        for script in ("setup.sh", "run_autograder"):
            assert archive.getinfo(script).external_attr >> 16 & 0o111
        everything = b"\n".join(archive.read(name) for name in names if name.endswith((".py", ".ipynb", ".sh", ".md")))
    assert "helpers/exercises.py" not in names and not any(name.startswith(("results", "answers")) for name in names)
    for secret in (
        b'padding="max_length", truncation=True, max_length=512), batched=True',
        b"optuna.samplers.GridSampler(grid)",
    ):
        assert secret in SOLUTION.encode() and secret not in everything
    for notebook in NOTEBOOKS[:4]:
        for cell in json.loads((ROOT / notebook).read_text())["cells"]:
            if "answer" in cell["metadata"].get("tags", []):
                assert rebuild.join(cell["source"])[:80].encode() not in everything


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python"])
def test_gradescope_s_autograder_leaves_results_behind(tmp_path: Path, monkeypatch, python: str) -> None:
    monkeypatch.chdir(ROOT)
    gradescope.write_autograder(tmp_path / "autograder.zip")
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        archive.extractall(tmp_path / "source")
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "exercises.py").write_text(SOLUTION + MISTAKES["2a"])
    os.chmod(tmp_path / "source" / "run_autograder", 0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"AUTOGRADER_ROOT": str(tmp_path), "AUTOGRADER_PYTHON": python, "GRADE_OPTIONS": "--no-notebooks"}
    command = ["bash", str(tmp_path / "source" / "run_autograder")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    works = python == sys.executable
    assert results["score"] == (50 if works else 0), done.stdout
    assert [test.get("score") for test in results["tests"][:4]] == ([10, 0, 20, 20] if works else [])
    assert works or "autograder itself failed" in results["output"]


def test_none_of_the_points_is_forgotten() -> None:
    assert sum(AUTOMATIC.values()) + sum(WRITTEN.values()) == 100 and NONE.keys() == ALL.keys() == AUTOMATIC.keys()
