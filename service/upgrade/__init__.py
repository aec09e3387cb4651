"""A gate for another release of a model: compared with the old one, then given its traffic in steps, or taken back."""
