"""What is done where nobody says how: how long a prompt is trained, and what it may start from."""

__all__ = ["LONGEST", "usual_epochs"]

# Tokens: longer hard prompts are no start for a prompt.
LONGEST = 64

# A prompt is trained for about so many steps of 8 rows: minutes on a small model.
STEPS = 300


def usual_epochs(rows: int) -> int:
    """Return passes over so many rows for the usual number of steps; from one to ten.

    >>> usual_epochs(48), usual_epochs(800), usual_epochs(9_000)
    (10, 3, 1)
    """
    return max(1, min(10, STEPS * 8 // rows))
