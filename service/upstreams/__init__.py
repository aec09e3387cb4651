"""The live replicas of each served model: discovery, health, progress, ejection."""
