"""Bursts of requests at a simulated engine, directly and through the gateway's own admission and concurrency limit."""
