"""What a model needs and yields: memory, requests, speed bounds and cost, worked out before anything runs."""
