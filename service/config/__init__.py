"""What an operator writes: settings from the environment, and YAML files read strictly."""
