"""Whatever a class hands in: every student has a row and every file is found, or the reason is said."""

import io
import json
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from hostile import write_files as write

from helpers.answers import NOTEBOOKS
from instructor import reader
from instructor.places import clean_name, find_submissions
from instructor.reader import LARGEST, match_platform, read_submission

FILES = ("exercises.py", "results.json", *NOTEBOOKS)


def content(name: str) -> bytes:
    """Something else for each of the course's files, whatever a copy of it is called."""
    return next((known.encode() for known in FILES if known[:7] in name.lower().replace(" ", "_")), b"?")


def zipped(names, compression=zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name in names:
            archive.writestr(name, names[name] if isinstance(names, dict) else content(str(name)))
    return packed.getvalue()


def read(path: Path) -> dict[str, reader.Submission]:
    """From each student of a class to what was read."""
    return {place.student: read_submission(place.parts) for place in find_submissions([path], path.parent / "grades")}


def read_one(data: bytes, tmp_path: Path) -> reader.Submission:
    (tmp_path / "one.zip").write_bytes(data)
    return read(tmp_path / "one.zip")["one"]


PACKED = ["exercises.py", "results.json", *(f"notebooks/{name}" for name in NOTEBOOKS)]
LAYOUTS = {
    "as submit packs it": {"ann.zip": zipped(PACKED)},
    "unpacked": {f"ann/{name}": content(name) for name in PACKED},
    "flat": {"ann.zip": zipped(FILES)},
    "the whole project": {
        "ann.zip": zipped(
            ["p/helpers/exercises.py", "p/build/quick/results.json", *(f"p/notebooks/{name}" for name in NOTEBOOKS)]
            + ["p/tests/test_exercises.py", "p/.venv/lib/exercises.py", f"p/.ipynb_checkpoints/{NOTEBOOKS[0]}"]
        )
    },
    "a zip in a zip": {"ann.zip": zipped({"x/submission.zip": zipped(PACKED)})},
    "macOS": {"ann.zip": zipped([*PACKED, "__MACOSX/._exercises.py", *(f"notebooks/._{name}" for name in NOTEBOOKS)])},
    "Windows": {"ann.zip": zipped([name.replace("/", "\\") for name in PACKED])},
    "a student's own names": {"ann.zip": zipped([name.replace(".", "_Ann_Example.", 1) for name in FILES[2:]]
                                                + ["exercises_final_v2.py", "results (1) (1).json"])},
    "a zip without a name": {"ann/.zip": zipped(PACKED)},
    "Moodle": {"ann_7_assignsubmission_file_/submission.zip": zipped(PACKED)},
    "odd slashes": {"./ann_7_assignsubmission_file_//submission.zip": zipped([f"/./{name}" for name in PACKED])},
    "Moodle, files": {f"ann_7_assignsubmission_file_/{name}": content(name) for name in FILES},
    "Canvas": {"ann_7_1012_submission.zip": zipped(PACKED)},
    "Canvas, late, files": {f"ann_LATE_7_{n}_{name}": content(name) for n, name in enumerate(FILES, 1000)},
    "an older Canvas": {f"ann_late_7_{n}_{name}": content(name) for n, name in enumerate(FILES, 1000)},
    "Canvas, anonymous": {f"anon_ann4k_{n}_{name}": content(name) for n, name in enumerate(FILES, 1000)},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_files_are_found_where_students_and_platforms_put_them(tmp_path: Path, layout: str) -> None:
    files = LAYOUTS[layout] | {"bob_8_assignsubmission_file_/submission.zip": zipped(PACKED)}
    places = [write(tmp_path / "class", files)]
    if all(map(match_platform, (os.path.normpath(name).split("/")[0] for name in files))):  # a download, packed
        places.append(tmp_path / "class.zip")
        places[1].write_bytes(zipped({f"class/{name}": data for name, data in files.items()}))
    for place in places:
        found = read(place)
        assert len(found) == 2 and sorted(name for name in found if name[:3] in ("ann", "bob", "ano")) == sorted(found)
        for submission in found.values():
            assert submission.files == {name: content(name) for name in FILES} and not submission.notes


def test_whatever_could_be_somebody_s_has_a_row_with_the_reason(tmp_path: Path) -> None:
    files = {"bob.rar": b"Rar!", "cy.tbz2": b"BZ", "dan.tar.gz": b"", "eve.ipynb": b"{}", "fay.py": b"", "gus.pdf": b""}
    place = write(tmp_path / "class", files | {"ann.zip": zipped(FILES), ".DS_Store": b"", "__MACOSX/._ann.zip": b""})
    for name in ("hal", "env", "\U0001f600" * 60, os.fsdecode(b"\xff\xfe")):
        (place / name).mkdir()
    (place / "ida").symlink_to(ROOT / "helpers")
    (place / "jon.zip").symlink_to(place / "ann.zip")
    (place / "loop").symlink_to(place / "loop")
    os.mkfifo(place / "kay.zip")
    (tmp_path / "grades").mkdir()
    found = read(place)
    assert len(found) == 15 and {name for name, one in found.items() if not one.refused} == {"ann"}
    for name, words in (("bob", "bob.rar is not a zip"), ("cy", "not a zip"), ("eve.ipynb", "is eve.ipynb, rename"),
                        ("fay.py", "exercises.py is fay.py, rename it"), ("hal", "it is empty"), ("ida", "is a link"),
                        ("jon", "is a link"), ("kay", "not an ordinary file"), ("loop", "is a link")):  # fmt: skip
        assert words in found[name].refused
    assert all(len(os.fsencode(f"{name}.json.1234567.part")) < 255 and "/" not in name for name in found)


def test_a_folder_that_may_not_be_looked_into_is_not_called_empty(tmp_path: Path, monkeypatch) -> None:
    files = {"ann/exercises.py": b"1", "ann/notebooks/x": b"", "ann/Answers.PDF": b"", "bob/exercises.py": b"1"}
    place = write(tmp_path / "class", files)
    real = os.scandir

    def scandir(path: str) -> object:  # Root may look into every folder.
        if os.fspath(path).endswith(("notebooks", "bob")):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = read(place)
    assert "Permission denied" in found["bob"].refused and "empty" not in found["bob"].refused
    assert found["ann"].files and "class/ann/notebooks" in found["ann"].notes[0]
    assert found["ann"].notes[1:] == ["Not read, though it may have answers: Answers.PDF."]


DOWNLOAD = ("ann_7_assignsubmission_file_/exercises.py", "bob_8_assignsubmission_file_/exercises.py")
PAIR = ["ann", "bob"]
CLASSES = {
    "a download in a class": ({"a/ann_7_1012_exercises.py": b"1", "a/bob_8_1013_exercises.py": b"2", "cy.zip": b""},
                              ["a", "cy"]),
    "a download alone in its folder": ({"moodle.zip": zipped(DOWNLOAD), "grades/ann_7.md": b""}, ["ann_7", "bob_8"]),
    "numbers that are no platform's": (
        {f"{hw}_{name}.zip": b"" for hw in ("hw_1_2", "hw_3_12345", "lab_2_20261125", "nlp_2026_12345", "NLP_301_12345")
         for name in PAIR},
        ["hw_1_2_ann", "hw_1_2_bob", "hw_3_12345_ann", "hw_3_12345_bob", "lab_2_20261125_ann", "lab_2_20261125_bob",
         "nlp_2026_12345_ann", "NLP_301_12345_ann", "nlp_2026_12345_bob", "NLP_301_12345_bob"]),
    "two folders too many": ({f"download/week 3/{name}.zip": b"" for name in PAIR}, PAIR),
    "a file beside others' zips": ({f"HW 3/{name}": b"" for name in ("ann.zip", "bob.zip", "exercises_cy.py")},
                                   [*PAIR, "exercises_cy.py"]),
    "what systems leave": ({f"{name}.zip": b"" for name in PAIR}
                           | {"@eaDir/ann.zip@SynoEAStream": b"", "~$points.xlsx": b""}, PAIR),
    "one student": ({FILES[0]: b"1", f"old/{FILES[0]}": b"2", "old/old.zip": b"", f"old/{FILES[2]}": b""}, ["class"]),
    "one student's project": ({f"p/helpers/{FILES[0]}": b"1", f"p/notebooks/{FILES[2]}": b""}, ["p"]),
    "the only student": ({f"ann/{FILES[0]}": b"1"}, ["ann"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_every_entry_of_a_class_is_one_row(tmp_path: Path, name: str) -> None:
    files, rows = CLASSES[name]
    place = write(tmp_path / "class", files)
    assert [found.student for found in find_submissions([place], place / "grades")] == sorted(rows, key=str.casefold)


VERSIONS = {
    "several zips": ["week 3/code.zip", "week 3/books.zip"],
    "a zip, and what was unpacked from it": ["submission.zip", "submission/exercises.py"],
    "a browser's copies": ["submission.zip", "submission (1).zip"],
    "Teams": [f"HW 3/Version {number}/exercises.py" for number in (9, 10)],
    "backups": ["helpers/exercises.py", "mine/exercises.py", "exercises_final.py", "exercises_old.py"],
    "versions with a name": ["exercises_Ann.py", "exercises_Ann_v2.py"],
    "results and notebooks": ["results_full.json", "results_quick.json", "03_full_vs_bitfit_old.ipynb", "exercises.py"],
}


@pytest.mark.parametrize("name", VERSIONS)
def test_parts_and_versions_in_a_student_s_folder_are_read(tmp_path: Path, name: str) -> None:
    packed = zipped(["exercises.py"])
    files = {f"ann/{file}": packed if file.endswith(".zip") else file.encode() for file in VERSIONS[name]}
    found = read(write(tmp_path / "class", files | {"bob.zip": b""}))
    assert [*found] == PAIR and found["ann"].files["exercises.py"] and not found["ann"].refused
    assert name != "Teams" or found["ann"].files["exercises.py"] == b"HW 3/Version 10/exercises.py"


SEVERAL = {
    "sections": [f"a/{name}.zip" for name in PAIR],
    "folders": ["a/ann/exercises.py", "a/bob/exercises.py", "a/bob/helpers/exercises.py"],
    "a download": [f"a/{name}" for name in DOWNLOAD],
    "files": ["a/exercises - Ann.py", "a/exercises - Anna.py"],
    "numbers": ["a/exercises_1234.py", "a/exercises_5678.py"],
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_several_students_work_in_one_entry_is_refused(tmp_path: Path, name: str, packed: bool) -> None:
    one = zipped(["exercises.py"])
    files = {file: one if file.endswith(".zip") else file.encode() for file in SEVERAL[name]} | {"cy.zip": b""}
    if packed:
        files = {"a.zip": zipped(files), "cy.zip": b""}
    found = read(write(tmp_path / "class", files))
    assert [*found] == ["a", "cy"] and "several students' work" in found["a"].refused and not found["a"].files


def test_the_folder_of_grades_is_no_row_however_it_is_called(tmp_path: Path, monkeypatch) -> None:
    class_ = write(tmp_path / "class", {f"{name}/{FILES[0]}": b"" for name in PAIR} | {"grades/ann.md": b""})
    (tmp_path / "link").symlink_to(class_ / "grades")
    monkeypatch.chdir(class_ / "grades")
    for out in (Path("."), Path("../grades"), tmp_path / "link"):
        assert [place.student for place in find_submissions([Path("..")], out)] == PAIR


def test_a_student_graded_alone_has_the_row_of_the_class(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", {f"{name}/submission.zip": b"" for name in PAIR} | {"cy/week 3/x.py": b""})
    students = [class_ / name for name in ("ann", "bob", "cy")]
    first = find_submissions(students, tmp_path)  # as a shell gives class/*
    assert [place.student for place in first] == ["ann", "bob", "cy"] and find_submissions([class_], tmp_path) == first
    for place in first:
        record = {"student": place.student, "submission": place.id, "answers": {}}
        write(tmp_path, {f"records/{place.id}.json": json.dumps(record).encode()})
    assert [place for path in students for place in find_submissions([path], tmp_path)] == first
    other = write(tmp_path / "other", {f"ann/{FILES[0]}": b""})  # A name stays who has it.
    assert [place.student for place in find_submissions([other], tmp_path)] == ["ann-2"]


def test_what_one_student_put_into_a_download_stops_nobody_else(tmp_path: Path) -> None:
    files = {"ann_7_1012_a.zip": zipped(PACKED), "bob_8_1013_zeros.txt": bytes(5 * 2**20), "cy_9_1014_a.zip": b"",
             "di_10_assignsubmission_file_/": b"", "index.html": b""}  # fmt: skip
    (tmp_path / "class.zip").write_bytes(zipped(files | {"ed_2026_1016_exercises.py": b""}))
    found = read(tmp_path / "class.zip")
    assert len(found) == 5 and len(found["ann_7"].files) == len(FILES) and "but zeros.txt" in found["bob_8"].refused
    assert found["cy_9"].refused and "it is empty" in found["di_10"].refused


def test_a_student_s_zip_gives_no_rows_to_others(tmp_path: Path) -> None:
    crafted = zipped(
        {"bob_8_assignsubmission_file_/exercises.py": b"1", "eve_9_assignsubmission_file_/exercises.py": b"2"}
    )
    place = write(tmp_path / "class", {"ann.zip": crafted, "bob.zip": zipped(FILES)})
    assert [*read(place)] == PAIR
    assert [found.student for found in find_submissions([place / f"{name}.zip" for name in PAIR], tmp_path)] == PAIR


def test_a_late_attempt_has_the_row_of_the_first_and_counts(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", {"ann_7_1012_exercises.py": b"1", "bob.zip": b""})
    before = {place.id for place in find_submissions([class_], tmp_path)}
    both = find_submissions([write(class_, {"ann_LATE_7_1015_a.zip": zipped({FILES[0]: b"2"})})], tmp_path)
    assert {read_submission(place.parts).files.get(FILES[0]) for place in both} == {b"2", None}
    (class_ / "ann_7_1012_exercises.py").unlink()
    assert before == {place.id for place in both} == {place.id for place in find_submissions([class_], tmp_path)}


def test_what_is_unpacked_as_its_row_says_has_the_same_row(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", {"ann.tar.gz": b"", "bob.rar": b"", "cy.zip": b""})
    first = [(place.student, place.id) for place in find_submissions([class_], tmp_path)]
    (write(class_, {f"{name}/{FILES[0]}": b"1" for name in PAIR}) / "ann.tar.gz").unlink()
    second = find_submissions([class_], tmp_path)
    assert [(place.student, place.id) for place in second] == first and [name for name, _ in first] == [*PAIR, "cy"]
    assert [read_submission(place.parts).files for place in second] == [{FILES[0]: b"1"}, {FILES[0]: b"1"}, {}]


def test_nobody_can_take_another_s_name_or_place(tmp_path: Path) -> None:
    before = write(tmp_path / "class", {"ann.zip": zipped(FILES), "grades.zip": b"", "records/exercises.py": b""})
    first = {place.student: place.id for place in find_submissions([before], tmp_path)}
    write(
        before,
        {"ann!.zip": b"x", "+ann.zip": b"x", "Ann.zip": b"x", "ann/exercises.py": b"x", "answers_to_read.zip": b""},
    )
    second = {place.student: place.id for place in find_submissions([before], tmp_path)}
    assert len(set(second.values())) == 8 and {name.casefold() for name in second} == {*map(str.casefold, second)}
    assert first["ann"] in second.values() and not second.keys() & {"grades", "records", "answers_to_read"}
    assert all(name[0] == "s" for name in second.values()), "a spreadsheet takes it for a text"


@pytest.mark.parametrize(
    ("name", "clean"),
    [("../../x", "x"), ("a/b", "a_b"), ("", "submission"), ("…", "submission"), ("Zoë", "Zoë"), ("अनिता", "अनिता")],
)
def test_a_student_s_name_is_safe_as_a_file_s(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def test_the_nearest_to_the_top_counts_and_others_are_noted(tmp_path: Path) -> None:
    files = {
        "old /30/exercises.py": b"oldest",
        "old 9/30/exercises.py": b"older",
        "old 10/30/exercises.py": b"old",
        "exercises (1).py": b"copy",
        "a/b/c/exercises.py": b"deep",
        "old/x/y/exercises.py": b"old",
        "submission.zip": zipped(FILES),
    }
    found = read_one(zipped(files), tmp_path)
    assert found.files == {name: content(name) for name in FILES} | {"exercises.py": b"old"}
    assert len(found.notes) == 4 and all("is another exercises.py" in note for note in found.notes)


def member(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def patched(data: bytes, at: int, value: bytes, mark: bytes = b"PK\1\2") -> bytes:
    """Change the first entry of a zip's table of contents."""
    start = data.index(mark) + at
    return data[:start] + value + data[start + len(value) :]


STORED = zipped(["exercises.py"], zipfile.ZIP_STORED)
REFUSED = {
    "an encrypted zip": (patched(STORED, 8, b"\1"), "encrypted"),
    "another compression": (zipped(["exercises.py"], zipfile.ZIP_BZIP2), "compressed in an unusual way"),
    "a zip that is none": (b"PK but no", "not a zip"),
    "a member shorter than declared": (patched(STORED, 20, struct.pack("<II", 99999, 99999)), "exercises.py cannot be"),
    "a wrong checksum": (patched(STORED, 16, b"abcd"), "exercises.py cannot be read: BadZipFile"),
    "a link": (zipped({member("exercises.py", stat.S_IFLNK): b"/etc/passwd"}), "neither exercises.py nor"),
    "a bomb": (zipped({"exercises.py": bytes(50 * 2**20)}), "larger than 0.25 MiB"),
    "a lie about the table's size": (patched(zipped(FILES), 12, struct.pack("<I", 2**31), b"PK\5\6"), "Bad offset"),
    "nothing of use": (zipped({"a.zip": zipped(["b.pdf"])}), "course's notebooks, but one.zip/a.zip/b.pdf, "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_at_fault_is_the_reason_and_nothing_else_happens(tmp_path: Path, name: str) -> None:
    data, words = REFUSED[name]
    (tmp_path / "one.zip").write_bytes(data)
    found = read_submission([(tmp_path / "one.zip", "")])
    assert words in found.refused and not found.files and "rename it" not in found.refused
    assert os.listdir(tmp_path) == ["one.zip"]


def test_what_else_is_in_an_archive_does_no_harm(tmp_path: Path) -> None:
    names = [*FILES, "../../evil.py", "/etc/evil", "C:\\evil", *map(str, range(21_000))]
    found = read_one(zipped(dict.fromkeys(names, b"1") | {"zeros": bytes(50 * 2**20), "EXERCISES.py": b"2"}), tmp_path)
    assert found.files == dict.fromkeys(FILES, b"1") and os.listdir(tmp_path) == ["one.zip"]
    assert found.notes == ["one.zip/EXERCISES.py is another exercises.py than the one that counts."]


def test_sizes_are_checked_while_unpacking_for_headers_lie(tmp_path: Path) -> None:
    data = zipped({"exercises.py": b"#" * 2**20})
    lie = struct.pack("<I", 100)
    found = read_one(patched(patched(data, 24, lie), 22, lie, b"PK\3\4"), tmp_path)
    assert len(found.files.get("exercises.py", b"")) <= LARGEST["exercises.py"]


def test_a_small_zip64_is_read(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in FILES:
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(content(name))
    whole = packed.getvalue()
    at = whole.rindex(b"PK\5\6")  # The end of the table, in the form that `zip -fz` writes.
    size, start = struct.unpack("<II", whole[at + 12 : at + 20])
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, len(FILES), len(FILES), size, start)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, at, 1) + b"PK\5\6" + b"\0" * 4 + b"\xff" * 12 + b"\0\0"
    assert read_one(whole[:at] + end, tmp_path).files == {name: content(name) for name in FILES}
