"""Grading a class: rows, sheets, answers to read, points entered by hand, and Gradescope."""

import base64
import codecs
import csv
import importlib
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from conftest import ROOT, wait_until
from hostile import ALL, NONE, SOLUTION, mistaken, write_files

from helpers.answers import NOTEBOOKS
from helpers.settings import CourseError
from instructor import autograder, workshop
from instructor.__main__ import VERBS, main
from instructor.grade import grade_class, read_course, read_rubric
from instructor.limits import MEBI, Limits
from instructor.release import ORDINARY_LINES, cut_solutions
from instructor.sheet import WRITTEN, fence, neutralise, update_table, write_answers, write_sheet
from instructor.workshop import Workshop

SMALL = replace(Limits(), seconds=60, cpu_seconds=20, memory=1000 * MEBI, processes=24)
QUIET = {"notebooks": False, "limits": SMALL}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


def answered(text: str) -> bytes:
    """Notebook 1 with an answer to 1b; without exercises.py no sandbox is needed."""
    notebook = json.loads((ROOT / "notebooks" / NOTEBOOKS[0]).read_text(encoding="utf-8"))
    (cell,) = (cell for cell in notebook["cells"] if cell["id"] == "answer-1b")
    cell["source"] = text
    return json.dumps(notebook).encode()


def write(folder: Path, **students: dict[str, bytes]) -> Path:
    for student, files in students.items():
        write_files(folder / student, files)
    return folder


def read_table(path: Path) -> dict[str, dict[str, str]]:
    return {row["student"]: row for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))}


def enter(path: Path, delimiter: str = ",", encoding: str = "utf-8", **points: str) -> None:
    """Enter points of 1b by student, and a comment on everybody, as a spreadsheet saves them."""
    rows = read_table(path)
    for student, row in rows.items():
        row["1b"] = points.get(student, row["1b"])
        row["comment"] = f"on {student}"
    with path.open("w", newline="", encoding=encoding) as file:
        table = csv.DictWriter(file, next(iter(rows.values())), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows.values())


def test_a_class_is_graded_once_and_again_only_where_something_changed(tmp_path: Path) -> None:
    pictures = {"attachments": {"a.png": {"image/png": base64.b64encode(b"\x89PNG").decode()}}}
    notebook = json.loads(answered("See ![](attachment:a.png)"))
    next(cell for cell in notebook["cells"] if cell["id"] == "answer-1b").update(pictures)
    class_ = write(
        tmp_path / "class",
        ann={"exercises.py": SOLUTION.encode(), NOTEBOOKS[0]: json.dumps(notebook).encode()},
        bob={NOTEBOOKS[0]: answered("Bob's.")},
        cy={"exercises.py": mistaken("2a", "2c").encode()},
        di={"notes.txt": b"?"},
    )
    (class_ / "eve.rar").write_bytes(b"Rar!")
    out = tmp_path / "grades"
    first = {record["student"]: record for record in grade_class([class_], out, workers=2, **QUIET)}
    deserved = {"ann": ALL, "bob": NONE, "cy": ALL | {"2a": 0, "2c": 0}, "di": NONE, "eve": NONE}
    assert {student: record["points"] for student, record in first.items()} == deserved
    assert {f"{student}.md" for student in deserved} | {"grades.csv", "answers_to_read.md"} <= set(os.listdir(out))
    rows = read_table(out / "grades.csv")
    assert rows["cy"]["automatic"] == str(sum(deserved["cy"].values()))
    assert "not graded" in rows["di"]["notes"] and "not a zip" in rows["eve"]["notes"]
    text = (out / "answers_to_read.md").read_text(encoding="utf-8")
    assert "![1b-1-1.png](answers_files/ann/1b-1-1.png)" in text and (out / "answers_files/ann/1b-1-1.png").exists()

    write(class_, bob={NOTEBOOKS[0]: answered("Bob's second.")})
    second = {record["student"]: record for record in grade_class([class_], out, **QUIET)}
    assert {student for student in first if second[student] != first[student]} == {"bob"}
    assert second["bob"]["answers"] == {"1b": "Bob's second."}


def test_the_script_that_grades_a_class_of_40_writes_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    deserved = importlib.import_module("grade_class").write_class(tmp_path)
    assert len(deserved) == len(os.listdir(tmp_path)) == 40


def test_points_entered_by_hand_stay_with_the_submission(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", ann={NOTEBOOKS[0]: answered("Ann's.")}, bob={NOTEBOOKS[0]: answered("Bob's.")})
    out = tmp_path / "grades"
    grade_class([class_], out, **QUIET)
    enter(out / "grades.csv", ann="7", bob="6,5")
    write(class_, **{"ann!": {NOTEBOOKS[0]: answered("Mine.")}, "+ann": {NOTEBOOKS[0]: answered("Mine.")}})
    grade_class([class_], out, **QUIET)
    rows = read_table(out / "grades.csv")
    assert {student: row["1b"] for student, row in rows.items()} == {"ann": "7", "bob": "6,5", "ann-2": "", "ann-3": ""}
    sheet = (out / "ann-2.md").read_text(encoding="utf-8")
    assert "Ann's." not in sheet and "read from ../class/+ann\n" in sheet and "(answered) | in grades.csv |" in sheet
    assert f"| 1b (answered) | 6,5 | {WRITTEN['1b']} |" in (out / "bob.md").read_text(encoding="utf-8")
    write(class_, bob={NOTEBOOKS[0]: answered("Bob's second.")})
    grade_class([class_ / "bob"], out, **QUIET)  # One alone: the others' rows, points and answers stay.
    rows = read_table(out / "grades.csv")
    assert rows["ann"]["1b"] == "7" and rows["bob"]["1b"] == "6,5" and len(rows) == 4
    assert [rows[name]["comment"] for name in ("ann", "bob", "ann-2")] == ["on ann", "on bob", ""]
    text = (out / "answers_to_read.md").read_text(encoding="utf-8")
    assert "Ann's." in text and "Bob's second." in text
    said = "1b: the answer has changed since its points were entered"
    for points, noted in (("6,5", True), ("8", False)):  # Graded again, and read again.
        enter(out / "grades.csv", bob=points)
        grade_class([class_], out, **QUIET)
        rows = read_table(out / "grades.csv")
        assert [said in rows[name]["notes"] for name in ("ann", "bob")] == [False, noted]
        assert (said in (out / "bob.md").read_text(encoding="utf-8")) is noted and rows["bob"]["1b"] == points


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "cp1252")])
def test_points_are_taken_over_from_what_a_spreadsheet_saved(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / "grades.csv"
    update_table([record_of("ann")], path)
    assert path.read_bytes()[:7] == b"student"
    update_table([record_of("ann"), record_of("Zoë")], path)
    assert path.read_bytes()[:3] == codecs.BOM_UTF8, "else Excel shows another name"
    enter(path, delimiter, encoding, ann="7.5")
    assert update_table([record_of("ann"), record_of("Zoë")], path) == ""
    rows = read_table(path)
    assert rows["ann"]["1b"] == "7.5" and rows["Zoë"]["comment"] == "on Zoë" and [*rows["ann"]][-1] == "submission"


def test_what_a_person_adds_to_the_table_stays_and_gives_nobody_other_points(tmp_path: Path) -> None:
    path = tmp_path / "grades.csv"
    update_table([record_of("ann")], path)
    enter(path, ann="7")
    head, ann = path.read_text(encoding="utf-8").splitlines()
    copied = ann.replace("ann", "bob, her partner").replace(",7,", ",4,")
    added = [
        "carl" + "," * head.count(",") + ",on paper",
        ",,,",
        f'"{copied.partition(",1")[0]}",1{copied.partition(",1")[2]}',
    ]
    path.write_text("\r".join([head, ann, *added]), encoding="utf-8")  # as Excel's "CSV (Macintosh)"
    for _ in range(2):
        assert update_table([record_of("ann")], path) == ""
    rows = read_table(path)
    assert [*rows] == ["ann", "carl", "bob, her partner"] and rows["ann"]["1b"] == "7"
    assert rows["bob, her partner"]["1b"] == "4" and "on paper" in rows["carl"].values()


@pytest.mark.parametrize(
    ("head", "lacks"),
    [("student,1b", "submission"), ("1b (10),1c,3a,3b,submission", "1b"), ("", "submission")]
    + [("Week 3\nstudent,1b,1c,3a,3b,submission", "submission")],
)
def test_a_table_that_cannot_be_taken_over_is_put_aside(tmp_path: Path, head: str, lacks: str) -> None:
    path = tmp_path / "grades.csv"
    path.write_text(f"{head}\nann,7\n")
    said = update_table([record_of("ann")], path)
    (aside,) = tmp_path.glob("grades-unreadable-*.csv")
    assert aside.name in said and f"no column `{lacks}`" in said and aside.read_text() == f"{head}\nann,7\n"


def record_of(student: str = "ann", **changes: object) -> dict:
    record = {"student": student, "submission": f"s{student}", "refused": "", "points": dict(ALL), "figures": []}
    record |= {"changed": []}
    record |= {"said": dict.fromkeys(ALL, "correct"), "notes": [], "answers": {"1b": "Mine."}, "unplaced": []}
    record |= {"notebooks": [], "results": [], "isolation": ["in force"], "limits": "few", "automatic": 60}
    return record | {"seconds": 1.0, "cpu_seconds": 1.0, "peak_memory": MEBI, "graded": True} | changes


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", " =1", "a;=1+1;b", 'a";=1', "a\t=1", "a\n=1", "＝1", "'=1\r\n=2"]
)
def test_a_spreadsheet_takes_nothing_for_a_formula(tmp_path: Path, text: str, separator: str) -> None:
    update_table([record_of(refused=text, notes=[text, 'two,"quotes"'])], tmp_path / "grades.csv")
    for line in (tmp_path / "grades.csv").read_text(encoding="utf-8").splitlines():
        cells = next(csv.reader([line])) if separator == "," else line.split(separator)
        assert not [cell for cell in cells if cell.lstrip("\" '")[:1] in tuple("=+-@＝") and cell.strip()]
    assert neutralise("=" + "x" * 10**6)[:2] == "'=" and len(neutralise("x" * 10**6)) <= 300


def test_a_paragraph_on_one_line_is_read_without_scrolling() -> None:
    text = f"  {'word ' * 99}\n\n| {'cell | ' * 40}\n{'字' * 300}"
    lines = fence(text).splitlines()
    assert max(len(line) for line in lines if line[0:1] != "|") <= 110 and text.split("\n")[2] in lines
    assert lines[1].startswith("  word word") and "".join("".join(lines[1:-1]).split()) == "".join(text.split())


@pytest.mark.parametrize("text", ["```", "``````\n# Title", "<!-- -->", "a\n````\nb"])
def test_a_fence_cannot_be_closed_from_within(text: str) -> None:
    first, *_, last = fence(text).splitlines()
    assert last == first.removesuffix("text") and last not in text and set(last) == {"`"}


def test_answers_stand_beside_question_model_answer_and_rubric() -> None:
    records = [
        record_of("ann"),
        record_of("bob", answers={}, unplaced=["extra"], figures=["answers_files/3a-bob/1b-1-1.png"]),
    ]
    text = write_answers(records, read_course(), read_rubric())
    for problem in WRITTEN:
        part = text.partition(f"## Problem {problem} ")[2].partition("\n## ")[0]
        order = ["<summary>Model answer", "<summary>Rubric", f"### {problem} · ann", f"### {problem} · bob"]
        assert [part.index(words) for words in order] == sorted(part.index(words) for words in order)
        assert part.startswith(f"({WRITTEN[problem]} points)") and part.count("</details>") == 2
    assert "explain each of the three inputs" in text and text.count("(answers_files/3a-bob/1b-1-1.png)") == 1
    assert "Mine." in text and "extra" in text


VERDICT = {"said": dict.fromkeys(ALL, "?"), "passed": dict.fromkeys(ALL, False), "notes": [], "broken": ["1d"]}
VERDICT |= {"graded": True, "cpu_seconds": 9.0, "peak_memory": 0}


def test_what_goes_wrong_with_one_submission_is_said_and_the_others_are_graded(tmp_path: Path, monkeypatch) -> None:
    """The workshop fails for one submission, which no submission can make it do."""
    monkeypatch.setattr(Workshop, "grade_code", Mock(side_effect=RuntimeError("no room")))
    class_ = write(tmp_path / "class", ann={"exercises.py": b"#"}, bob={NOTEBOOKS[0]: answered("Bob's.")})
    ann, bob = grade_class([class_], tmp_path / "grades", **QUIET)
    assert not ann["graded"] and "THE GRADER FAILED" in write_sheet(ann) and bob["answers"] == {"1b": "Bob's."}
    monkeypatch.setattr(Workshop, "grade_code", lambda *given: VERDICT)
    ann, _ = grade_class([class_], tmp_path / "grades", **QUIET)
    assert ann["graded"], "what failed is graded again"


def test_no_more_at_a_time_than_memory_has_room_for_and_no_notebooks_where_code_broke_a_limit(tmp_path, monkeypatch):
    busy = threading.Lock()

    def grade_code(self: Workshop, code: bytes, limits: Limits) -> dict:
        assert busy.acquire(blocking=False), "two at a time"
        time.sleep(0.2)
        busy.release()
        return VERDICT

    monkeypatch.setattr(Workshop, "grade_code", grade_code)
    monkeypatch.setattr(workshop, "limit_memory", lambda found: 2048 * MEBI)
    class_ = write(tmp_path / "class", ann={"exercises.py": b"#"}, bob={"exercises.py": b"#"})
    for record in grade_class([class_], tmp_path / "grades"):
        assert record["graded"] and record["notebooks"] == ["not re-executed: the code broke a limit in 1d"]


def test_an_interrupted_grading_tidies_up_and_keeps_no_half_grade(tmp_path: Path) -> None:
    """By SIGTERM, which is made a Ctrl-C."""
    write(tmp_path, bob={"exercises.py": b"import os, time\nprint('here')\ntime.sleep(1e6)"})
    command = [sys.executable, "-m", "instructor", "grade", str(tmp_path / "bob"), "--out", str(tmp_path / "out")]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE}

    def running() -> bool:
        words = [word for each in psutil.process_iter(["cmdline"]) for word in each.info["cmdline"] or ()]
        return any(word.startswith(str(tmp_path)) and word.endswith("/runner.py") for word in words)

    with subprocess.Popen([*command, "--no-notebooks"], **options) as process:
        assert wait_until(running)
        process.terminate()
        said = process.stderr.read().decode()
        assert process.wait(30) == 130, said
    assert "Stopped." in said and "Traceback" not in said and not list(tmp_path.glob("grading-*"))
    assert not list((tmp_path / "out").rglob("*.md")) and not list((tmp_path / "out").rglob("*.json"))


def test_what_is_not_there_or_both_is_named(tmp_path: Path) -> None:
    with pytest.raises(CourseError, match="no submission .*gone.zip"):
        grade_class([tmp_path / "gone.zip"], tmp_path / "out")
    (tmp_path / "class").mkdir()
    with pytest.raises(CourseError, match="nothing to grade"):
        grade_class([tmp_path / "class"], tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "class")
    with pytest.raises(CourseError, match="is the folder of the submissions"):  # Each sheet would be a row next time.
        grade_class([tmp_path / "class"], tmp_path / "link")


def test_rows_of_submissions_that_were_not_given_are_counted(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "grades.csv").write_text(f"student,submission,{','.join(WRITTEN)}\nann,s1,7\n")
    monkeypatch.setattr("instructor.grade.grade_class", lambda *given, **how: [])
    assert main(["grade", "x", "--out", str(tmp_path)], "instructor", VERBS) == 0
    assert "were not given this time: 1.\n" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--isolation", "limits"], ["--workers", "0"], ["--workers", "-1"]])
def test_what_is_no_degree_or_number_is_refused_before_anything_is_read(option, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["grade", "x", *option], "instructor", VERBS)
    assert option[0] in capsys.readouterr().err


RESULT_FIELDS = {"score", "execution_time", "output", "output_format", "visibility", "stdout_visibility", "tests"}
TEST_FIELDS = {"score", "max_score", "status", "name", "number", "output", "output_format", "visibility"}


def test_gradescope_s_results_follow_its_schema() -> None:
    points = ALL | {"2a": 0}
    record = record_of(points=points, automatic=sum(points.values()), notebooks=["01: 3 of 3"], notes=["odd"])
    results = json.loads(json.dumps(autograder.make_results(record)))
    assert set(results) <= RESULT_FIELDS and results["score"] == sum(points.values())
    scored = [test for test in results["tests"] if "score" in test]
    assert [(test["score"], test["max_score"]) for test in scored] == [*zip(points.values(), ALL.values(), strict=True)]
    assert [test["status"] for test in scored] == ["passed", "failed", "passed", "passed"]
    for test in results["tests"]:
        assert set(test) <= TEST_FIELDS and {"name", "output"} <= set(test)
        assert test["visibility"] in ("hidden", "after_due_date", "after_published", "visible")


def test_gradescope_s_zip_is_the_same_every_time_and_has_no_solution(tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        autograder.write_autograder(tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        for script in ("setup.sh", "run_autograder"):
            assert archive.getinfo(script).external_attr >> 16 & 0o111
        everything = b"\n".join(archive.read(name) for name in names if name.endswith((".py", ".ipynb", ".sh", ".md")))
    assert not {"helpers/exercises.py", "results/quick.json", "answers.md", "docs/rubric.md"} & set(names)
    secrets = [line for line in cut_solutions(SOLUTION)[1] if len(line) > 40 and line not in ORDINARY_LINES]
    assert len(secrets) > 5 and not [line for line in secrets if line.encode() in everything]
    for notebook in read_course().values():
        for cell in notebook.cells:
            assert "answer" not in cell.metadata.get("tags", []) or cell.source[:80].encode() not in everything


@pytest.mark.parametrize("python", [sys.executable, "/no/such/python"])
def test_gradescope_s_autograder_leaves_results_behind(tmp_path: Path, python: str) -> None:
    autograder.write_autograder(tmp_path / "autograder.zip")
    with zipfile.ZipFile(tmp_path / "autograder.zip") as archive:
        archive.extractall(tmp_path / "source")
    write(tmp_path, submission={"exercises.py": mistaken("2a").encode()})
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
    assert not works or not (tmp_path / "graded" / "grades.csv").stat().st_mode & 0o007
