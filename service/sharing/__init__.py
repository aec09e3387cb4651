"""Several engines in one memory, a card's or the machine's: what each takes of it, and who is there when."""
