"""The student version: nothing of the solution in it, the same bytes each time, and fit to be worked with."""

import re
import shutil

import nbformat
import pytest
from conftest import ROOT, change_cell, run_python

from helpers import answers
from helpers.settings import CourseError
from instructor import release

pytestmark = pytest.mark.xdist_group("release")


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """What the command writes."""
    folder = tmp_path_factory.mktemp("Übung")  # An empty folder is as good as none.
    # Some terminals cannot show the name of the folder.
    done = run_python("-m", "instructor", "release", folder, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "--repo OWNER/NAME" in done.stdout
    assert "results/ (9 files)" in done.stdout, "what is released is listed, the lab's measured figures too"
    return folder


@pytest.fixture
def source(tmp_path):
    """A copy of the project's sources to change."""
    folder = tmp_path / "source"
    for name, path in release.find_sources(ROOT).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    (folder / "docs").mkdir()
    (folder / "README.md").rename(folder / release.README)
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def cells_of(folder):
    for path in sorted(folder.glob("notebooks/*.ipynb")):
        yield from nbformat.read(path, as_version=4).cells


def test_what_is_not_for_students_stays_behind(student):
    names = files_of(student)
    inside = re.compile(
        r"instructor|^results/(?!lab_)|^docs/|^scripts/|^benchmarks/|answers\.md|__pycache__|\.part$|^build/|\.git/"
    )
    assert not [name for name in names if inside.search(name)]
    assert [name for name in names if name.startswith("tests/test_")] == ["tests/test_exercises.py"]
    wanted = {"README.md", "Makefile", "helpers/checks/judge.py", "helpers/offline/checkpoint/vocab.txt"}
    assert wanted <= set(names)


def test_no_line_of_a_solution_or_an_answer_is_left(student):
    """Read here without the module's own search."""
    code = (ROOT / "helpers" / "exercises.py").read_text(encoding="utf-8")
    bodies = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", code, re.S)
    given = {line.strip() for line in re.sub(r"(?s)### BEGIN.*?### END", "", code).splitlines()}
    secrets = {line.strip() for body in bodies for line in body.splitlines()} - given
    answered = [cell.source for cell in cells_of(ROOT) if "answer" in cell.metadata.get("tags", [])]
    secrets |= {line.strip() for text in answered for line in text.splitlines()}
    secrets = {line for line in secrets if len(line) > 15}
    assert len(secrets) > 40
    released = [(student / name).read_text(encoding="utf-8") for name in ("helpers/exercises.py", "README.md")]
    released += [cell.source for cell in cells_of(student)]
    assert not [line for line in secrets for text in released if line in text]


def test_functions_keep_signature_and_docstring_and_name_their_problem(student):
    stubs = (student / "helpers" / "exercises.py").read_text(encoding="utf-8")
    solved = (ROOT / "helpers" / "exercises.py").read_text(encoding="utf-8")
    for name, problem in release.FUNCTIONS.items():
        head = re.search(rf'(?s)def {name}\(.*?""".*?"""\n', solved)[0]
        message = f"Problem {problem}: write {name} in helpers/exercises.py."
        assert f'{head}    raise NotImplementedError("{message}")\n' in stubs
    assert re.search(r"(?s)^.*?(?=\n\n\ndef )", solved)[0] in stubs, "the imports stay, for students need them"


def test_of_a_notebook_only_answers_and_outputs_that_are_no_reference_change(student):
    assert not any(answers.collect_answers(answers.read_notebooks(student / "notebooks")).values())
    for ours, theirs in zip(cells_of(ROOT), cells_of(student), strict=True):
        tags = ours.metadata.get("tags", [])
        assert (ours.id, ours.metadata.get("nbgrader")) == (theirs.id, theirs.metadata.get("nbgrader"))
        assert theirs.source == (answers.PROMPT if "answer" in tags else ours.source)
        if theirs.cell_type == "code":
            assert bool(theirs.outputs) == ("reference" in tags) and theirs.execution_count is None
            assert all(output.get("execution_count") is None for output in theirs.outputs)
    for path in student.glob("notebooks/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert set(notebook.metadata) == {"kernelspec", "language_info"}


def test_the_same_source_gives_the_same_bytes(student, source):
    again, _ = release.build_release(source)
    assert again == {name: path.read_bytes() for name, path in files_of(student).items()}


def test_the_repository_s_place_is_written_where_a_student_needs_it(source):
    link = "https://colab.research.google.com/github/YOUR-COURSE/bitfit-assignment/x"
    append(source, release.README, f"\n[Colab]({link})\n")
    files, _ = release.build_release(source, "ada-l/week.3")
    assert not [content for content in files.values() if b"YOUR-COURSE" in content]
    for name in [name for name in files if name.endswith(".ipynb")]:
        cells = nbformat.reads(files[name].decode(), as_version=4).cells
        bootstrap = next(cell.source for cell in cells if cell.cell_type == "code")
        assert "https://github.com/ada-l/week.3" in bootstrap and 'isdir("week.3")' in bootstrap
        compile(bootstrap, name, "exec")
    assert b"github/ada-l/week.3/x" in files["README.md"]
    (activated,) = re.findall(rb"conda activate ([^`]+)`", files["README.md"])
    assert b"\nname: %b\n" % activated in files["environment.yml"], "conda's environment is no place on GitHub"
    files, _ = release.build_release(source, "our-bitfit-assignment/week")
    assert b"github/our-bitfit-assignment/week/x" in files["README.md"]


@pytest.mark.parametrize(
    "repository", ["ada", "https://github.com/ada/week", "ada/we ek", "a/b/c", '"/x"', "ada/.git", "Übung/kurs"]
)
def test_a_repository_is_an_owner_and_a_name(repository):
    with pytest.raises(CourseError, match="is not OWNER/NAME"):
        release.build_release(ROOT, repository)


def test_links_of_the_students_readme_lead_somewhere(student):
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", (student / "README.md").read_text(encoding="utf-8"))
    assert len(links) > 4 and all((student / link).exists() for link in links)


def test_ruff_accepts_it_and_the_command_line_has_no_instructor_verbs(student):
    for arguments in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = run_python("-m", "ruff", *arguments, ".", cwd=student)
        assert done.returncode == 0, done.stdout
    listed = run_python("-B", "-m", "helpers", "--help", cwd=student, path=(student,)).stdout
    assert "submit" in listed and "release" not in listed and "grade" not in listed


CODE = '''"""Exercises."""


def preprocess_dataset(dataset):
    """Problem 1d."""
    ### BEGIN SOLUTION
    return dataset.first_step()
    ### END SOLUTION
'''


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    ### END SOLUTION\n", "", ["line 6", "never ends"]),
        ("    ### BEGIN SOLUTION\n", "", ["line 7", "only '### BEGIN SOLUTION' can"]),
        ("### END SOLUTION", "### end solution", ["line 8", "only '### END SOLUTION' can"]),
        ("def preprocess_dataset", "def helper", ["line 6", "none of the exercises"]),
        ('"""Exercises."""\n', "### BEGIN SOLUTION\n### END SOLUTION\n", ["line 1", "none of the exercises"]),
        ("Exercises", "Without the others", ["init_model, init_trainer", "no solution markers"]),
        (
            "    ### BEGIN SOLUTION\n    return dataset.first_step()\n    ### END SOLUTION\n",
            "    return (\n    ### BEGIN SOLUTION\n    dataset\n    ### END SOLUTION\n    )\n",
            ["does not compile without"],
        ),
    ],
)
def test_markers_that_do_not_fit_are_refused_by_line(old, new, words):
    with pytest.raises(CourseError) as refusal:
        release.cut_solutions(CODE.replace(old, new, 1))
    assert all(word in str(refusal.value) for word in words), refusal.value


def append(source, name, text):
    path = source / name
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


LINE = 'parameter.requires_grad = name.endswith(".bias")'
ANSWER = "ids are not embeddings. BERT looks up a word vector by `input_ids`, a segment vector"
BROKEN = "\nThe " + ANSWER.replace(" a ", "\na ") + " by `token_type_ids` and a position vector by the\n"
MARKERS = "### BEGIN SOLUTION\nx = 1\n### END SOLUTION"


def say_in(cell_id, text):
    return lambda source: change_cell(source / "notebooks", cell_id, source=text)


def add_to(name, text):
    return lambda source: append(source, name, text)


LEAKS = {
    "code in prose": (say_in("frozen", f"Like this: `{LINE}`"), ["03_full_vs_bitfit.ipynb", LINE]),
    "code beside the markers": (add_to(release.EXERCISES, f"\n# {LINE}\n"), ["exercises.py", LINE]),
    "an answer broken elsewhere": (add_to(release.README, BROKEN), ["README.md", "not embeddings"]),
    "a marker in a cell": (say_in("run-2a", MARKERS), ["03_full_vs_bitfit.ipynb", "marker"]),
    "an answer that nothing marks": (
        lambda s: [
            change_cell(s / "notebooks", "problem-1b", source="## Problem 1b · ? (10 points)"),
            change_cell(s / "notebooks", "answer-1b", id="mine", metadata={}),
        ],
        ["answer to 1b: the question", "ASKING"],
    ),
    "a half of an answer without its tags": (
        say_in("next", "Mine."),
        ["02_hyperparameters.ipynb", "'Mine.'", "counts as an answer to 1c"],
    ),
    "another file beside the course's": (
        lambda s: (s / "helpers" / "solution-v2.py").write_text("x = 1\n"),
        ["helpers/solution-v2.py is not a file of the course", "COURSE"],
    ),
    "a file missing": (lambda s: (s / "Makefile").unlink(), ["Makefile"]),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_source_at_fault_is_named_and_nothing_is_left_behind(source, tmp_path, leak):
    spoil, words = LEAKS[leak]
    spoil(source)
    target = tmp_path / "empty" / "student"
    target.parent.mkdir()
    with pytest.raises(CourseError) as refusal:
        release.write_release(target, source)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert not list(target.parent.iterdir())


def test_an_answer_is_known_without_its_tag_and_one_that_is_not_written_yet_stops_nothing(source, tmp_path):
    change_cell(source / "notebooks", "answer-1b", metadata={})
    say_in("answer-1c", answers.PROMPT)(source)
    release.write_release(tmp_path / "student", source)
    prompts = [cell for cell in cells_of(tmp_path / "student") if cell.source == answers.PROMPT]
    assert {"answer-1b", "answer-1c"} <= {cell.id for cell in prompts}


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(CourseError, match="not an empty folder"):
            release.write_release(target)
    assert (tmp_path / "mine.txt").read_text() == "kept"
    with pytest.raises(CourseError, match="Could not write .*: File name too long"):
        release.write_release(tmp_path / ("long" * 64))
