"""The example in the package's docstring, run as it stands."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from algo import testing
from algo.judge.journal import read_records


async def test_the_example_of_the_docstring_scores_a_group(tmp_path: Path) -> None:
    assert testing.__doc__ is not None
    code = "\n".join(line for line in testing.__doc__.splitlines() if line.startswith("    "))
    names: dict[str, Any] = {}
    exec(dedent(code), names)
    scores, requests = await names["main"](tmp_path)
    assert scores == (1.0, 1.0)
    assert requests == {"my-rubricator": 1, "my-verifier": 2}
    [record] = read_records(tmp_path)
    assert [call["attempts"] for call in record["calls"]] == [1, 2]
