"""Benchmarks: what tinyscene reaches, each measured by a command and kept with what made it."""
