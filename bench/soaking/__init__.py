"""The parts of a soak test: engines, faults, requests, and the verdict on each response."""
