"""The fleet file: which models this installation serves, how, and under which names."""
