"""What holds for every test, however the suite was started and however busy the machine is.

Marks each test by its folder, bounds its time by the same, runs the quick ones first; gives the
processes that tests start the signals of a foreground process; keeps the model hub out.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.builders.patience import patience

# Seconds that one test may take on an idle machine, in the order in which the folders run.
TIMEOUT_S = {"unit": 60, "contract": 180, "e2e": 900}
ROOT = Path(__file__).parent

# Read when the hub's library is imported: no test waits for a network that may not be there.
os.environ["HF_HUB_OFFLINE"] = "1"
# A case of a property test that takes long on a busy machine is no fault: its test has a bound.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
# Tests start processes in folders of their own.
if "TMPDIR" in os.environ:
    os.environ["TMPDIR"] = os.path.abspath(os.environ["TMPDIR"])


def pytest_configure() -> None:
    """Undo what `nohup`, `trap '' INT` or a script's `&` leave to every process below them.

    A handler, unlike an ignored signal, is not passed on: the processes that tests start, xdist's
    workers among them, get the default. This process ignores the signal as it was told to.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(_kind(item))
    items.sort(key=lambda item: list(TIMEOUT_S).index(_kind(item)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Bound the test by the machine as it is when the test begins."""
    marker = item.get_closest_marker("timeout")
    seconds = marker.args[0] if marker is not None else TIMEOUT_S[_kind(item)]
    item.add_marker(pytest.mark.timeout(patience(seconds)), append=False)
    return (yield)


def _kind(item: pytest.Item) -> str:
    kind = item.path.relative_to(ROOT).parts[0]
    if kind not in TIMEOUT_S:
        raise pytest.UsageError(f"{item.path}: tests live in tests/{{{','.join(TIMEOUT_S)}}}/")
    return kind
