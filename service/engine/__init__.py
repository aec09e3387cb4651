"""One engine (a `vllm serve` process): command line, supervision, health, and the state file that others read."""
