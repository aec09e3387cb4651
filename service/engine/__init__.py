"""A model as a running vLLM: its command line, its supervised process, and the state that others may read."""
