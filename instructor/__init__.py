"""Tools for instructors and graders; not part of the student version."""
