"""What is done where nobody says how: how long a prompt is trained, and what it may start from."""

__all__ = ["LONGEST", "usual_epochs"]

# Tokens: longer hard prompts are no start for a prompt.
LONGEST = 64

# A prompt is trained for at most about so many steps of 8 rows, minutes on a small model; for more
# where one pass is more.
STEPS = 300


def usual_epochs(rows: int) -> int:
    """Return passes over so many rows that make about the usual number of steps; from one to ten.

    Fewer than 240 rows get fewer steps, more than 2,400 get more.

    >>> usual_epochs(28), usual_epochs(800), usual_epochs(8_000)  # 40, 300 and 1,000 steps
    (10, 3, 1)
    """
    return max(1, min(10, STEPS * 8 // rows))
