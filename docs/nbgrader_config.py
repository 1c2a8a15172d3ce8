# For a course in nbgrader: copy this beside its `source` folder, as nbgrader_config.py.
c = get_config()  # noqa: F821  (nbgrader puts it here)

c.CourseDirectory.course_id = "bitfit"
# The code that students write; all the other files of helpers/ are taken from `source` again before grading.
c.Autograde.exclude_overwriting = {"bitfit": ["helpers/exercises.py"]}
c.OverwriteCells.add_missing_cells = True
c.ClearSolutions.text_stub = "*Your answer here.*"
# Seconds a cell: the 40 runs of notebook 03 take minutes, and nbgrader stops a cell after 30 seconds by default.
c.Execute.timeout = 1800
