"""The replicas of each served model as the gateway sees them: discovery, health, ejection, concurrency limits."""
