"""python -m model: every interleaving of every scenario.

python -m model                 what `make test` searches: scenarios and variants that hold, mutants that are caught
python -m model full            the larger scenarios too (minutes)      python -m model deep   those besides (much longer, some GiB)
python -m model NAME            what has NAME in its name, at any size; of a violation, the shortest way there
Exit 0 if everything came out as expected.
"""

from __future__ import annotations

import sys
import time

from model.runs import RUNS, Run
from model.search import search


def report(run: Run, is_told: bool) -> bool:
    """Searches, prints a line, and tells whether it came out as expected."""
    began = time.perf_counter()
    found = search(run.model())
    is_good = found.broken is not None if run.is_mutant else found.is_complete and found.broken is None
    verdict = found.broken or ("holds" if found.is_complete else "NOT COMPLETE")
    seconds = time.perf_counter() - began
    print(
        f"{'ok  ' if is_good else 'FAIL'} {run.name:66} {found.states:>9,} states {seconds:6.1f} s  {verdict}",
        flush=True,
    )
    if found.broken and (is_told or not is_good):
        for n, (step, text) in enumerate(found.trace, 1):
            print(f"       {n}. [{step}] {text}")
    return is_good


def main(arguments: list[str]) -> int:
    """The command."""
    word = " ".join(arguments)
    sizes = {"": ("test",), "full": ("test", "full"), "deep": ("test", "full", "deep")}.get(word)
    runs = [r for r in RUNS if (r.size in sizes if sizes else word in r.name)]
    results = [report(run, is_told=sizes is None) for run in runs]
    print(f"{sum(results)} of {len(results)} as expected")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
