"""The network of a model: its sizes, what they add up to, its `config.json`, and the same structure in small."""
