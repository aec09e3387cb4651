"""What an engine would compile or decode is done here first, in a process that may die: schemas, grammars, images."""
