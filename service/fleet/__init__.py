"""The fleet file: its schema, its resolution into served models, and its reload."""
