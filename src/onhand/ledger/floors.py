"""How far online promises may go at a position: units kept from them, less what backorder permits.

Both are columns of its level; the gate is told of the floor whenever it changes, in the delta of what changed it.
"""

from __future__ import annotations

ROOM = "greatest(0, {0}backorder_limit - {0}backordered)"
"""Units beyond what is there that may still be promised; {0}: the name of the level's row and a point."""
FLOOR = f"{{0}}safety_stock - {ROOM}"
"""What ATP may not fall below by a promise."""
