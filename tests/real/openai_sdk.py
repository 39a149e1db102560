"""OpenAI's own SDK as a client of the embedded judge: the fake endpoint speaks the real API.

    python -m tests.real.openai_sdk [--folder FOLDER]

Makes an environment in FOLDER (a temporary one unless named) with the pinned SDK, serves the
embedded judge with a key, asks it by the SDK in both styles, and compares with what the judge says
without HTTP; plants each fault and looks for the exception that the SDK has for it. Prints a line a
check and exits with 1 when one fails.
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from algo.testing import Fault, FaultKind, Request
from examples.arithmetic.impairments import Impairments, Role
from examples.arithmetic.judge import MODELS, ArithmeticJudge, JudgeServer
from tests.real.environment import installed

PACKAGES: Final = ("openai==3.22.1",)
UPLOADED_BEFORE: Final = "2026-08-27"
_CLIENT_S: Final = 120
_QUESTION: Final = "7+5=?"
_MODEL: Final = f"arithmetic-{Role.TEACHER}"

RAISED: Final = {
    FaultKind.HTTP_400: "BadRequestError",
    FaultKind.CONTENT_FILTER: "BadRequestError",
    FaultKind.CONTEXT_OVERFLOW: "BadRequestError",
    FaultKind.HTTP_401: "AuthenticationError",
    FaultKind.HTTP_404: "NotFoundError",
    FaultKind.HTTP_429: "RateLimitError",
    FaultKind.HTTP_500: "InternalServerError",
    FaultKind.HTTP_503: "InternalServerError",
    FaultKind.DROP: "APIConnectionError",
}
"""What the SDK makes of a planted fault."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the environment is made, and kept")
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory(prefix="ropd-real-") as temporary:
        python = installed(chosen or Path(temporary), "openai", PACKAGES, UPLOADED_BEFORE)
        found = _asked(python)
    print(f"openai {found.pop('sdk')}")
    wanted = _wanted()
    for name in wanted:
        right = found.get(name) == wanted[name]
        print(f"{'ok     ' if right else 'FAILED '} {name}: {found.get(name)!r}")
        if not right:
            print(f"        instead of {wanted[name]!r}")
    return 0 if found == wanted else 1


def _asked(python: Path) -> dict[str, Any]:
    server = JudgeServer(Impairments()).endpoint
    server.key = f"sk-{secrets.token_hex(16)}"
    server.role_of = lambda body: _role_of(str(body["model"]))
    server.plan = _plan
    client = Path(__file__).with_name("openai_client.py")
    with server.serve_in_thread() as url:
        done = subprocess.run(
            [python, client, url, server.key, _MODEL, _QUESTION, *RAISED, FaultKind.REFUSAL],
            capture_output=True,
            text=True,
            timeout=_CLIENT_S,
            check=False,
        )
    if done.returncode:
        sys.exit(f"the client ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout)


def _role_of(model: str) -> Role | None:
    return Role.TEACHER if model.startswith("faulty-") else MODELS.get(model)


def _plan(request: Request) -> Fault | None:
    model = str(request.body["model"])
    return Fault(FaultKind(model.removeprefix("faulty-"))) if model.startswith("faulty-") else None


def _wanted() -> dict[str, Any]:
    said, other = (
        ArithmeticJudge().answer(
            Request(
                {"model": _MODEL, "messages": [{"role": "user", "content": _QUESTION}], "seed": 3},
                role=Role.TEACHER,
                choice=choice,
            )
        )
        for choice in (0, 1)
    )
    whole = {"text": said, "refusal": None, "finish_reason": "stop", "tokens": True}
    declined = "I cannot help with that."
    return {
        "models": sorted(MODELS),
        "chat": whole,
        "raw": 200,
        "choices": [said, other],
        "responses": {"text": said, "status": "completed", "tokens": True},
        "text": said,
        "wrong_key": "AuthenticationError",
        "wrong_key_models": "AuthenticationError",
        "unknown_model": "NotFoundError",
        "no_messages": "BadRequestError",
        **{str(kind): raised for kind, raised in RAISED.items()},
        str(FaultKind.REFUSAL): {**whole, "text": None, "refusal": declined},
    }


if __name__ == "__main__":
    sys.exit(main())
