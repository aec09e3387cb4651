"""What observability costs: `python -m bench.observability`."""
