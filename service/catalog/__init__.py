"""What a model is: family, checkpoint, name, chat and infill prompts, and the engine arguments that it needs."""
