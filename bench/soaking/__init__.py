"""The parts of a soak: engines and what befalls them, requests, and what came of each."""
