"""The shape of a model's network: its sizes, parameter count and `config.json`, and the same structure scaled down."""
