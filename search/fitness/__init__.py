"""How much of a task a candidate is asked, and what is concluded from it."""
