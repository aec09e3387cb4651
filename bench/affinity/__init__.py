"""The gain of prefix-aware load balancing, and the cost of choosing a replica."""
