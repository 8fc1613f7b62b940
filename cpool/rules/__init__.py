"""Rules: terms of the loss and steps at the boundaries, one a file."""
