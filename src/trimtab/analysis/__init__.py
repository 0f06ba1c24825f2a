"""Results in, numbers out: groups, findings, bounds, selection."""
