"""An OpenAI-compatible endpoint to test against: no key, no network, and faults on demand.

For tests of a method, of a judge's client or of a whole run. What the endpoint replies is a
function of the request; what goes wrong is another. Here every criterion is met, and the
Verifier's first request gets a 503, which the engine has to survive:

    import json
    from algo.ropd.pipeline import Group, Rollout, build_pipeline
    from algo.ropd.settings import RopdSettings
    from algo.teacher.teacher_index import TeacherAnswer
    from algo.testing import FakeOpenAI, FaultKind, Request

    PARTS = [{"criterion_id": f"c{k}", "criterion": f"part {k}", "points": k} for k in range(1, 5)]

    def answer(request: Request) -> str:
        if request.role == "my-rubricator":
            rubric = [{**part, "category": "Task Completion"} for part in PARTS]
            return json.dumps({"schema_version": "ropd.rubric.v1", "rubrics": rubric})
        met = [{"answer_index": k, "judgement": [True] * 4} for k in (1, 2, 3)]
        return json.dumps({"schema_version": "ropd.batch_verifier.v2", "answers": met})

    def plan(request: Request) -> FaultKind | None:
        first = request.role == "my-verifier" and request.number == 0
        return FaultKind.HTTP_503 if first else None

    class Teachers:
        def answers(self, fingerprint, m):
            return [TeacherAnswer(fingerprint, "four", "teacher")]

    async def main(journal):
        fake = FakeOpenAI(answer, plan)
        async with fake.serve() as url:
            role = {"base_url": url, "api_key_env": None}
            judge = {name: {**role, "model": f"my-{name}"} for name in ("rubricator", "verifier")}
            settings = RopdSettings.from_node({"journal_dir": journal, "judge": judge})
            question = [{"role": "user", "content": "2+2=?"}]
            rollouts = [Rollout("4", finished=True), Rollout("five", finished=True)]
            async with build_pipeline(settings, {}, Teachers()) as pipeline:
                scored = await pipeline.score_group(Group("g1", question, rollouts, step=1))
        return scored.scores, fake.requests

`serve_in_thread` does the same for code without an event loop, as in a test that starts processes.
`Impairments` plan faults and delays from settings, by ordinals or by a seeded fraction. This
package imports nothing else of the product, and of the product only the examples import it.
"""

from __future__ import annotations

from algo.testing.batches import Batches
from algo.testing.faults import HARMLESS, PASSING, REJECTIONS, Fault, FaultKind, spoil
from algo.testing.schedule import Delay, Impairer, Impairments, ScheduledFault
from algo.testing.server import HOST, Answer, FakeOpenAI, Plan
from algo.testing.wire import Reply, Request, Usage, estimated_usage, message_text

__all__ = [
    "HARMLESS",
    "HOST",
    "PASSING",
    "REJECTIONS",
    "Answer",
    "Batches",
    "Delay",
    "FakeOpenAI",
    "Fault",
    "FaultKind",
    "Impairer",
    "Impairments",
    "Plan",
    "Reply",
    "Request",
    "ScheduledFault",
    "Usage",
    "estimated_usage",
    "message_text",
    "spoil",
]
