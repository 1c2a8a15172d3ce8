"""What only instructors and graders run; absent from the student version."""
