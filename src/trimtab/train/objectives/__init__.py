"""What is minimised under a constraint: the two cases, a budget, a dial."""
