"""Poison: a job that kills whoever handles it. It must end, and take no innocent job with it.

A worker that dies (it crashes, runs out of memory, hangs until its lease lapses) leaves behind all the jobs that it
held. One of them may have killed it; nobody saw which. To count deaths per job would fail thousands of innocents beside
one poison, so the guilty one is found as in group testing, by halving the groups in which it may be:

1.  **The inquest** (`poison.lua`, once per death, by the first worker that adopts). What the dead one had held for
    `STABLE_LEASES` leases had not killed it, and is cleared. The others, the *young* ones, each count one more death.
    The first death accuses nobody: they are adopted freely, as after any crash. At the second, they are *suspects* of
    one group, as large as there were young jobs, or suspects among them, in the dead one's hands.
2.  **The trial** (`adopt.lua`). A worker takes suspects only as long as it holds at most half of their group at a time;
    the smallest groups come first. Innocents grow old in its hands, or simply end, and make room for the next ones.
    A poison kills again, and its group is halved: after log2(n) deaths it is a group of one.
3.  **The quarantine.** A group of one is tried alone. One worker at a time, the holder of `QUARANTINE_KEY`, claims and
    adopts nothing else until all that it holds is old; then it takes the one suspect, and nothing else until that
    one is old. A death that leaves one young job, and only that, is that job's: a stranger's poison cannot be blamed on
    it. Other workers, and other suspects, go on meanwhile, and the pods of all of them run on.
4.  **The end.** After the policy's `worker_losses` such deaths the job is not handled any more: the next worker gets it
    without its payload (`Claim.workers_lost`), and all that it does is to record the end.

A worker that leaves in peace (SIGTERM) accuses nobody. Everything is decided in Lua, by the server's clock, and noted
in the execution's own hash: it goes with the execution, so whatever ends or requeues by itself has a clean record. The
minting of a next attempt keeps the execution, so a job whose worker dies before each pod is bounded by the same count.

Bounds: a poison ends after at most 2 + log2(n) + `worker_losses` deaths. One that takes longer than `STABLE_LEASES`
leases to kill is taken for innocent each time: it costs a worker now and then, but nobody is failed for it.
"""

from typing import TYPE_CHECKING, Final

from runner_spec import names, wire
from runner_spec.outcome import POISON, Fault, Outcome, Verdict

if TYPE_CHECKING:
    from worker.queue.claim import Claim

# Leases for which a job must have been held until its worker's lease ended. A worker that dies at once keeps its lease
# for one more at most, so this gives the poison two leases to act in.
STABLE_LEASES: Final = 3
# The worker that tries a suspect alone.
QUARANTINE_KEY: Final = wire.PREFIX + "quarantine"


def poisoned(claim: "Claim") -> Outcome:
    """The end of a job that has cost as many workers as the policy allows."""
    count = claim.workers_lost
    pod = names.pod_name(claim.job_id, claim.attempt)
    message = (
        f"{count} worker{'s' if count != 1 else ''} died while handling this job and no other: it is not handled any "
        "more. What its pod did since is not known, and its log may end early; look at the workers' own logs, and at "
        "this job's description, before it is submitted again."
    )
    return Outcome(Verdict.FAILED, Fault.PLATFORM, POISON, message, evidence={"workers_lost": count, "pod": pod})
