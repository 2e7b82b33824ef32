"""Policies on a board: the serial protocol, the line it runs over, the board as a Policy."""
