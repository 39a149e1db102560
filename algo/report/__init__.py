"""One static HTML page of a run, on which each reward is traced to the sentence that earned it.

`census` reads every record once and recomputes its rewards, `selection` says which groups are
shown, `group_view` lays one record out, `run_facts` and `chart` give the head, `page` fits it all
into a bounded, self-contained file. The page has no script and loads nothing. Nothing but the page
is written.
"""

from algo.report.page import DEFAULT_MAX_MB, write_report
from algo.report.selection import parse_steps

__all__ = ["DEFAULT_MAX_MB", "parse_steps", "write_report"]
