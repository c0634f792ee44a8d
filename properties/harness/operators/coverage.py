"""How much of torch's databases a run has tried, and which rows nothing needed."""

from typing import Any, Dict, Iterable, List, Set, Tuple

from frostproof.properties.harness.operators.reasons import USED, needless

OPERATORS, MODULES = "operators", "modules"
NEEDED, WHOLE = "rows needed", "of the whole database"
BETWEEN = " | "
DTYPES = ("float64", "float32", "complex128", "bfloat16")
PARTS = 8  # of the database in each dtype: tests that workers share
PORTIONS = {f"{dtype}-part{number + 1}of{PARTS}" for dtype in DTYPES for number in range(PARTS)}
PORTIONS |= {f"{dtype}-{MODULES}" for dtype in DTYPES}


def noted(names: int, of: int, dtype: str, portion: str, database: str = OPERATORS) -> Dict[str, str]:
    """What the record of one test over a database says. portion: "" where it is a sample."""
    return {
        database: f"{names} of {of} in {dtype}",
        NEEDED: BETWEEN.join(sorted(USED)),
        **({WHOLE: portion} if portion else {}),
    }


def lines(reports: Iterable[Any]) -> List[str]:
    """The lines of the summary; needless rows are told after a whole pass in every dtype."""
    shares: Dict[Tuple[str, str], List[int]] = {}
    used: Set[str] = set()
    seen: Set[str] = set()
    for report in reports:
        said = dict(getattr(report, "user_properties", ()))
        for database in {OPERATORS, MODULES} & {*said}:
            if report.when != "call":
                continue
            names, _, of, _, dtype = said[database].split(" ")
            total = shares.setdefault((database, dtype), [0, int(of)])
            total[0] += int(names)
            used |= set(said[NEEDED].split(BETWEEN))
            seen.add(said.get(WHOLE, ""))
    found = [
        f"{database} of torch's database tried in {dtype}: {names} of {of}"
        for (database, dtype), (names, of) in sorted(shares.items())
    ]
    if PORTIONS <= seen:
        USED.update(used)
        found += [f"nothing needed this row of the operators' tables: {name}" for name in needless()]
    return found
