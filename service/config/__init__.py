"""What the operator writes: YAML files read strictly, and settings from the environment."""
