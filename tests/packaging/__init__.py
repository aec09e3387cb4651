"""What reaches a user: the wheel, its dependencies, the locks, the Bento."""

LIMIT = 300.0  # seconds for one command of theirs, a few on an idle machine
