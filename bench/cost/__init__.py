"""The gateway's overhead: CPU, latency and memory per request and per chunk, compared with Rust routers."""
