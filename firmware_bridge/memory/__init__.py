"""The order of the work and the memory that it takes: schedule, arena plan, arena check."""
