"""The GPU kit: what the fleet really does on a card, measured by one command and reported as it was measured."""
