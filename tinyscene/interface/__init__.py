"""The Python interface: a call for each stage. The commands of tinyscene/cli/ show what these return."""
