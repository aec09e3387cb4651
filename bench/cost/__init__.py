"""What the gateway costs: CPU, latency and memory of one request and one chunk, beside the Rust routers."""
