"""A run spec becomes a result: one model trained and measured, many, a dial."""
