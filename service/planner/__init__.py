"""Capacity planning: memory, concurrent requests, throughput bounds and cost of a model on a GPU. Pure arithmetic."""
