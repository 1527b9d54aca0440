"""What the commands `replay` and `simulate` put together: clients of the API, servers of their own, faults, the audit.

The clients (onhand.simulate) know the API only. What they cannot see (the feeds, a stack to run against, its processes and
connections, the ledger's own invariants) is joined to them here.
"""

from onhand.trials.faults import Level
from onhand.trials.faulty import simulate_faults
from onhand.trials.load import replay, servers, simulate

__all__ = ["Level", "replay", "servers", "simulate", "simulate_faults"]
