"""The queue protocol: claims, leases, adoption and fenced commits, in rq's own keys.

The flow of a job: `JobQueue.claim` → pod → `JobQueue.settle`. The rest is for the days when something dies: `renew`,
`adopt`, `mint`, `commands`, `tick`.
"""

from worker.queue.claim import Claim
from worker.queue.command import Command, CommandKind
from worker.queue.errors import LeaseLost, LogsForgotten, QueueError, QueueRefused, QueueUnavailable
from worker.queue.job_queue import JobQueue
from worker.queue.settlement import Action, Fail, Finish, Requeue, Settlement, Stop

__all__ = [
    "Action",
    "Claim",
    "Command",
    "CommandKind",
    "Fail",
    "Finish",
    "JobQueue",
    "LeaseLost",
    "LogsForgotten",
    "QueueError",
    "QueueRefused",
    "QueueUnavailable",
    "Requeue",
    "Settlement",
    "Stop",
]
