"""What it is worth to send what belongs together to the same replica, and what choosing costs."""
