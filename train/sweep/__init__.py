"""Sweeps: recipes by splits by seeds, their plan, jobs, status and report."""
