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
from instructor.places import Place, clean_name, find_submissions
from instructor.reader import LARGEST, OWN_NAME, read_submission

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
    "flat, unpacked": {f"ann/{name}": content(name) for name in FILES},
    "in a folder": {"ann.zip": zipped([f"week 3/{name}" for name in PACKED])},
    "the whole project": {
        "ann.zip": zipped(
            ["p/helpers/exercises.py", "p/build/quick/results.json", *(f"p/notebooks/{name}" for name in NOTEBOOKS)]
            + ["p/tests/test_exercises.py", "p/.venv/lib/exercises.py", f"p/.ipynb_checkpoints/{NOTEBOOKS[0]}"]
        )
    },
    "a zip in a zip": {"ann.zip": zipped({"x/submission.zip": zipped(PACKED)})},
    "two zips in a folder": {"ann_7_assignsubmission_file_/code.zip": zipped(FILES[:2]),
                             "ann_7_assignsubmission_file_/books.zip": zipped(FILES[2:])},
    "macOS": {"ann.zip": zipped([*PACKED, "__MACOSX/._exercises.py", *(f"notebooks/._{name}" for name in NOTEBOOKS)])},
    "Windows": {"ann.zip": zipped([name.replace("/", "\\") for name in PACKED])},
    "a student's own names": {"ann.zip": zipped([name.replace(".", "_Ann_Example.", 1) for name in FILES[2:]]
                                                + ["exercises_final_v2.py", "results (1) (1).json"])},
    "a zip without a name": {"ann/.zip": zipped(PACKED)},
    "Moodle": {"ann_7_assignsubmission_file_/submission.zip": zipped(PACKED)},
    "odd slashes": {"./ann_7_assignsubmission_file_//submission.zip": zipped([f"/./{name}" for name in PACKED])},
    "Moodle, without folders": {"ann_7_assignsubmission_file_submission.zip": zipped(PACKED)},
    "Moodle, files": {f"ann_7_assignsubmission_file_/{name}": content(name) for name in FILES},
    "Canvas": {"ann_7_1012_submission.zip": zipped(PACKED)},
    "Canvas, late, files": {f"ann_LATE_7_{n}_{name}": content(name) for n, name in enumerate(FILES, 1000)},
    "an older Canvas": {f"ann_late_7_{n}_{name}": content(name) for n, name in enumerate(FILES, 1000)},
    "Canvas, anonymous": {f"anon_ann4k_{n}_{name}": content(name) for n, name in enumerate(FILES, 1000)},
    "D2L": {"1-7 - ann - Nov 25, 2026 400 PM/submission.zip": zipped(PACKED)},
    "D2L, flat": {"1-7 - ann- Nov 25, 2026 400 PM - submission.zip": zipped(PACKED)},
    "Blackboard": {"HW_ann_attempt_2026-11-25-10-00-00_submission.zip": zipped(PACKED),
                   "HW_ann_attempt_2026-11-25-10-00-00.txt": b"receipt"},
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_files_are_found_where_students_and_platforms_put_them(tmp_path: Path, layout: str, packed: bool) -> None:
    files = LAYOUTS[layout] | {"bob_8_assignsubmission_file_/submission.zip": zipped(PACKED)}
    place = write(tmp_path / "class", files)
    if packed:
        place = tmp_path / "class.zip"
        place.write_bytes(zipped({f"class/{name}": data for name, data in files.items()}))
    if packed and layout in ("unpacked", "flat, unpacked"):
        pytest.skip("no platform packs this")
    found = read(place)
    assert len(found) == 2 and sorted(name for name in found if "ann" in name or "bob" in name) == sorted(found)
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
SECTIONS = ("a/ann", "a/bob", "b/ann", "b/di")
PAIR, IN_SECTIONS, TRIO = ["ann", "bob"], ["a_ann", "a_bob", "b_ann", "b_di"], ["ann", "bob", "exercises_cy.py"]
CLASSES = {
    "the folder of grades": ({"ann.zip": zipped(FILES), "grades/records/x.json": b"{}"}, ["ann"]),
    "a download in a class": ({"a/ann_7_1012_exercises.py": b"1", "a/bob_8_1013_exercises.py": b"2", "cy.zip": b""},
                              ["a_ann_7", "a_bob_8", "cy"]),
    "a download alone in its folder": ({"moodle.zip": zipped(DOWNLOAD), "grades/ann_7.md": b""}, ["ann_7", "bob_8"]),
    "files beside zips": ({FILES[1]: b"", FILES[2]: b"", "ann.zip": b"", "bob/exercises.py": b""},
                          [FILES[2], "ann", "bob", FILES[1]]),
    "files beside sections": ({FILES[1]: b"", "a/ann.zip": b"", "a/bob.zip": b"", "b/ann.zip": b"", "b/di.zip": b""},
                              ["a_ann", "a_bob", "b_ann", "b_di", FILES[1]]),
    "numbers that are no platform's": ({"hw_1_2_ann.zip": b"", "hw_1_2_bob.zip": b""}, ["hw_1_2_ann", "hw_1_2_bob"]),
    "dates that are no platform's": ({"lab_2_20261125_ann.zip": b"", "lab_2_20261125_bob.zip": b""},
                                     ["lab_2_20261125_ann", "lab_2_20261125_bob"]),
    "students' numbers that are no platform's": (
        {f"{hw}_1234{n}_{name}.zip": b"" for hw in ("hw_3", "nlp_2026", "NLP_301") for n, name in enumerate(PAIR)},
        [f"{hw}_1234{n}_{name}" for hw in ("hw_3", "nlp_2026", "NLP_301") for n, name in enumerate(PAIR)]),
    "a phone's pictures": ({f"{name}/{file}": b"" for name in PAIR
                            for file in ("submission.zip", "screenshot_20261105_143022_chrome.jpg")}, PAIR),
    "projects in sections": ({f"{name}/project/helpers/{FILES[0]}": b"" for name in SECTIONS}, IN_SECTIONS),
    "two folders too many": ({f"download/week 3/{name}.zip": b"" for name in PAIR}, PAIR),
    "a folder in each section": ({f"{part}/week 3/{name}.zip": b"" for part in "ab" for name in (*PAIR, "di")},
                                 [f"{part}_week_3_{name}" for part in "ab" for name in (*PAIR, "di")]),
    "a download in each section": ({f"{part}/week 3/{name}": b"" for part in "ab" for name in DOWNLOAD},
                                   ["a_week_3_ann_7", "a_week_3_bob_8", "b_week_3_ann_7", "b_week_3_bob_8"]),
    "a download of one student in each section": ({f"week 3/{DOWNLOAD[0]}": b"", f"late/{DOWNLOAD[1]}": b""},
                                                  ["late_bob_8", "week_3_ann_7"]),
    "zips beside what was unpacked from them": ({f"{name}/submission{file}": b"" for name in PAIR
                                                 for file in (".zip", f"/{FILES[0]}", f"/{FILES[2]}")}, PAIR),
    "several zips in a folder of one student": ({f"{name}/week 3/{file}.zip": b"" for name in PAIR
                                                 for file in ("code", "books")}, PAIR),
    "parts and versions in a student's own folder": (
        {f"ann/{file}.zip": b"" for file in ("code", "books")}
        | {f"bob/submission{number}.zip": b"" for number in ("", " (1)")}, PAIR),
    "versions in a folder of one student": ({f"{name}/HW 3/Version {n}/{FILES[0]}": b"" for name in PAIR
                                             for n in range(12)}, PAIR),
    "a file beside others' zips": ({f"HW 3/{name}": b"" for name in ("ann.zip", "bob.zip", "exercises_cy.py")}, TRIO),
    "Sakai": ({f"HW 1/{name}/{file}": b"" for name in PAIR
               for file in ("timestamp.txt", "Submission attachment(s)/submission.zip")}, PAIR),
    "dots in names": ({f"HW 3/{name}/version 1..2.zip": b"" for name in PAIR}, PAIR),
    "far down": ({f"drive/HW 3/{name}/HW 3/Version 1/p-main/p-main/helpers/{FILES[0]}": b"" for name in PAIR}, PAIR),
    "students' numbers": ({f"HW/2021000{n}/{FILES[0]}": b"" for n in range(3)}, [f"2021000{n}" for n in range(3)]),
    "what systems leave": ({f"{name}.zip": b"" for name in PAIR}
                           | {"@eaDir/ann.zip@SynoEAStream": b"", "~$points.xlsx": b""}, PAIR),
    "notebooks alone": ({f"{name}/{FILES[2]}": b"" for name in PAIR}, PAIR),
    "code and notebooks apart": ({f"ann/code/{FILES[0]}": b"", f"ann/books/{FILES[2]}": b"",
                                  f"ann/books/{FILES[3]}": b"", "bob.zip": b""}, ["ann", "bob"]),
    "one student, with old work": ({FILES[0]: b"1", f"old/{FILES[0]}": b"2", "old/old.zip": b"",
                                    f"old/{FILES[2]}": b"", f"older/{FILES[2]}": b""}, ["class"]),
    "the instructor's code beside zips": ({FILES[0]: b"1", "ann.zip": b"", "bob.zip": b""}, ["ann", "bob", FILES[0]]),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_everybody_has_one_row(tmp_path: Path, name: str) -> None:
    files, rows = CLASSES[name]
    place = write(tmp_path / "class", files)
    assert [found.student for found in find_submissions([place], place / "grades")] == rows
    if rows in (PAIR, IN_SECTIONS, TRIO):  # Google Drive and Nextcloud pack such folders as they are.
        (tmp_path / "class.zip").write_bytes(zipped({f"class/{file}": data for file, data in files.items()}))
        assert [found.student for found in find_submissions([tmp_path / "class.zip"], tmp_path)] == rows


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
    write(tmp_path, {f"records/{p.id}.json": json.dumps(describe(p)).encode() for p in first})
    assert [place for path in students for place in find_submissions([path], tmp_path)] == first


def describe(place: Place) -> dict:
    return {"student": place.student, "submission": place.id, "answers": {}}


def test_what_one_student_put_into_a_download_stops_nobody_else(tmp_path: Path) -> None:
    files = {"ann_7_1012_a.zip": zipped(PACKED), "bob_8_1013_zeros.txt": bytes(5 * 2**20), "cy_9_1014_a.zip": b"",
             "di_10_assignsubmission_file_/": b""}  # fmt: skip
    (tmp_path / "class.zip").write_bytes(zipped(files | {"ed_2026_1016_exercises.py": b""}))
    found = read(tmp_path / "class.zip")
    assert len(found) == 5 and len(found["ann_7"].files) == len(FILES) and "but zeros.txt" in found["bob_8"].refused
    assert found["cy_9"].refused and "it is empty" in found["di_10"].refused


def test_a_zip_of_more_files_than_a_class_has_is_not_looked_through_where_no_limits_hold(tmp_path: Path) -> None:
    (tmp_path / "class.zip").write_bytes(zipped({f"{n}/exercises.py": b"" for n in range(20_001)}))
    assert [place.student for place in find_submissions([tmp_path / "class.zip"], tmp_path)] == ["class"]


def test_a_platform_s_own_files_in_a_download_do_not_hide_whose_the_others_are(tmp_path: Path) -> None:
    names = ("12-34 - Ann Example - Nov 25, 2026 1000 AM", "12-35 - Bob Example - Nov 25, 2026 1001 AM")
    downloads = []
    for number in range(2):
        downloads.append(tmp_path / f"download{number}.zip")
        files = [f"{name.replace('12-', f'{number}2-')}/{FILES[0]}" for name in names]
        downloads[-1].write_bytes(zipped([*files, "index.html"]))
    rows = [place.student for place in find_submissions(downloads, tmp_path / "grades")]
    assert len(rows) == 6 and sum("Example" in row for row in rows) == 4
    place = write(tmp_path / "class", {path.name: path.read_bytes() for path in downloads})
    assert all("several students" in submission.refused for submission in read(place).values())


def test_a_student_s_zip_gives_no_rows_to_others(tmp_path: Path) -> None:
    crafted = zipped({"bob/exercises.py": b"1", "eve/exercises.py": b"2"})
    place = write(tmp_path / "class", {"ann.zip": crafted, "bob.zip": zipped(FILES)})
    assert sorted(read(place)) == ["ann", "bob"]
    assert [place.student for place in find_submissions([place / "ann.zip", place / "bob.zip"], tmp_path)] == [
        "ann",
        "bob",
    ]


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("ann_7_1012_a.zip", "ann_LATE_7_1015_a-1.zip"),
        ("HW_ann_attempt_2026-11-25-10-00-00_a.zip", "HW_ann_attempt_2026-11-27-10-00-00_a.zip"),
        ("HW_ann_attempt_2026-11-25-10-00-00_final.zip", "HW_ann_attempt_2026-11-27-10-00-00_fixed.zip"),
        ("ann_7_1012_exercises.py", "ann_LATE_7_1015_a.zip"),
    ],
)
def test_a_later_attempt_has_the_row_of_the_first_and_counts(tmp_path: Path, first: str, later: str) -> None:
    old = b"1" if first.endswith(".py") else zipped({FILES[0]: b"1"})
    class_ = write(tmp_path / "class", {first: old, "bob.zip": b""})
    before = {place.id for place in find_submissions([class_], tmp_path)}
    both = find_submissions([write(class_, {later: zipped({FILES[0]: b"2"})})], tmp_path)
    assert {read_submission(place.parts).files.get(FILES[0]) for place in both} == {b"2", None}
    (class_ / first).unlink()
    assert before == {place.id for place in both} == {place.id for place in find_submissions([class_], tmp_path)}


def test_names_like_an_attempt_s_are_no_platform_s(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", {f"ann{late}_v/{FILES[0]}": b"" for late in ("", "_LATE")})
    assert [place.student for place in find_submissions([class_], tmp_path)] == ["ann_LATE_v", "ann_v"]


@pytest.mark.parametrize(
    "others",
    [
        ["results_full.json", "results_quick.json", "exercises.py"],
        ["03_full_vs_bitfit_old.ipynb", "03_full_vs_bitfit_new.ipynb", "exercises.py"],
        ["exercises_final.py", "exercises_old.py"],
        ["exercises_Ann.py", "exercises_Ann_v2.py"],
    ],
)
def test_versions_of_one_student_are_read(tmp_path: Path, others: list[str]) -> None:
    assert not read_one(zipped(others), tmp_path).refused


def test_a_name_of_many_numbers_takes_no_time() -> None:
    assert OWN_NAME.fullmatch(("v" + "20" * 32) * 500 + "!x") is None


def test_what_is_unpacked_as_its_row_says_has_the_same_row(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", {"ann.tar.gz": b"", "bob.rar": b"", "cy.zip": b""})
    first = [(place.student, place.id) for place in find_submissions([class_], tmp_path)]
    (write(class_, {f"{name}/{FILES[0]}": b"1" for name in PAIR}) / "ann.tar.gz").unlink()
    second = find_submissions([class_], tmp_path)
    assert [(place.student, place.id) for place in second] == first and [name for name, _ in first] == [*PAIR, "cy"]
    assert [read_submission(place.parts).files for place in second] == [{FILES[0]: b"1"}, {FILES[0]: b"1"}, {}]


def test_a_name_stays_who_has_it_whatever_is_graded_later(tmp_path: Path) -> None:
    class_ = write(tmp_path / "class", {f"{section}/{name}.zip": b"" for section in "ab" for name in ("ann", "bob")})

    def grade(path: Path) -> list[str]:
        places = find_submissions([path], tmp_path)
        write(tmp_path, {f"records/{p.id}.json": json.dumps(describe(p)).encode() for p in places})
        return [place.student for place in places]

    assert [grade(class_ / section) for section in "aba"] == [["ann", "bob"], ["ann-2", "bob-2"], ["ann", "bob"]]
    assert grade(class_) == ["ann", "ann-2", "bob", "bob-2"] and grade(class_ / "b" / "ann.zip") == ["ann-2"]


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
    }
    found = read_one(zipped(files), tmp_path)
    assert found.files["exercises.py"] == b"old"
    assert len(found.notes) == 3 and all("is another exercises.py" in note for note in found.notes)


def test_another_file_in_an_archive_beside_the_one_that_counts_is_noted(tmp_path: Path) -> None:
    files = {"exercises.py": b"new", "submission.zip": zipped(FILES), "copy.zip": zipped({"exercises.py": b"new"})}
    found = read_one(zipped(files), tmp_path)
    assert found.files == {name: content(name) for name in FILES} | {"exercises.py": b"new"}
    assert found.notes == ["one.zip/submission.zip/exercises.py is another exercises.py than the one that counts."]


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
    "a device": (zipped({member("exercises.py", stat.S_IFCHR): b""}), "neither exercises.py nor"),
    "a bomb": (zipped({"exercises.py": bytes(50 * 2**20)}), "larger than 0.25 MiB"),
    "several students' work": (zipped([f"class/{name}" for name in DOWNLOAD]), "the work of several students (ann_7, "),
    "several students' numbers": (zipped(["exercises_1234.py", "exercises_5678.py"]), "several students' work"),
    "several students' files": (zipped(["exercises - Ann.py", "exercises - Bob.py"]), "work (exercises - Ann.py and"),
    "a lie about the table's size": (patched(zipped(FILES), 12, struct.pack("<I", 2**31), b"PK\5\6"), "Bad offset"),
    "nothing of use": (zipped({"a.zip": zipped(["b.pdf"])}), "course's notebooks, but one.zip/a.zip/b.pdf, "),
    "no member at all": (zipped([]), "neither exercises.py nor"),
    "too large": (zipped({"exercises.py": b"#" * 300_000}, zipfile.ZIP_STORED), "larger than 0.25 MiB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_at_fault_is_the_reason_and_nothing_else_happens(tmp_path: Path, name: str) -> None:
    data, words = REFUSED[name]
    (tmp_path / "one.zip").write_bytes(data)
    found = read_submission([("one.zip", tmp_path / "one.zip", "")])
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
