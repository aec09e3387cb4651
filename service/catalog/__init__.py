"""What a model is: its family, its checkpoint, its name, its prompts, and the engine arguments it needs."""
