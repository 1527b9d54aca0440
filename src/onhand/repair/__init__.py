"""`onhand verify --repair`: mends what verify finds, as far as it can be known what is right, and says what it did.

Movements are the truth and levels their projection: a level that differs is set to the sum of its movements, never a movement
changed. Units that are in the wrong place move, by a movement that says so. Where something was lost that nobody can know
(money, whose order, what a customer got), nothing is guessed: the next step is for a person, and is named.
"""

from onhand.repair.run import RepairReport, repair

__all__ = ["RepairReport", "repair"]
