"""What reaches a user: the wheel, its dependencies, the locks, the Bento."""
