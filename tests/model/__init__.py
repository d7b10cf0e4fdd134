"""A small model of claim, lease, adopt, create, mint, commit, delete, explored exhaustively: every order of all steps.

What decides is the product's own code: `runner_spec.ownership`, and `JobQueue` with its Lua scripts in an embedded
Redis. The model adds what surrounds them: workers that stop between any two steps; creations that take effect late,
also when their sender is dead or its connection is broken, that are refused, or lost; replies that are lost; leases
that lapse; strangers who delete a pod at any time, also one that has ended; somebody who asks for a job's end; a clock
that is set back; a Redis that forgets.

What it proves, for the bounds of a `Configuration`:

- without a failover, at most one pod of each attempt is ever created: whoever has deleted the first one, and however
  late a request takes effect. A creation that was not confirmed is looked for, never sent again;
- without a failover, no job runs again that has succeeded, but for a late pod's success, and for one whose pod a
  stranger has deleted before it was recorded;
- without a failover, a job has at most one live pod besides late ones. Late is a pod that was created when its attempt
  was given up already: superseded, recorded, or looked for in vain by whoever holds it. Each of these is deleted, with
  no more help than that workers go on working; without the scan for orphans, unless there was a failover;
- a job is green only if a pod of the recorded attempt has succeeded;
- a job has one recorded end, none where it was canceled while it waited;
- after a failover, a job has at most two live pods besides late ones, at most one if nothing else happens
  (`Exploration.crowd`). Two: what Redis has forgotten includes that an attempt was given up and the next one's pod
  created. The earlier number is given out anew, or still in the hands of a worker that was held up, and its pod created
  beside the later one's, which `orphan_fate` then deletes;
- from every state there is a way, without any further fault, to a world in which all jobs have ended and no pod, no
  request and no claim is left. A way, not every way: time-outs and patience are not in it.

The window of two live attempts is a late pod's life. Nobody can close it: looking for a pod (GET) and minting the next
attempt are two requests to two servers, and Kubernetes promises no moment after which a request that was sent will not
take effect. What bounds it:

- one request for each attempt, so at most one late pod of each; and an attempt is given up in vain only after a worker
  has died before its creation was confirmed, or Kubernetes has left it unanswered (`worker.supervisor.LOOK_S`: who
  waits longer before it looks has fewer late pods and later jobs);
- how late: an API server ends a request after a minute (`--request-timeout`), from its arrival: what a proxy adds to
  that, nobody knows;
- how long: whoever is alive watches the pods of the dead, of itself, and of those it has adopted from, and asks Redis
  about those that it does not hold at each tick (`worker.supervisor.TICK_S`); where nobody watches, at each scan
  (`worker.orphan_scan.INTERVAL_S`). Then the pod has its own grace period;
- between GET and mint the attempt's log is declared lost, in Redis. While Redis is away, these two wait, for as long as
  it takes: a pod that comes up meanwhile is followed, and all the same superseded once Redis is back. The model has
  this, as `Held.minting`.

How far it was explored, by `python -m tests.model JOBS FAULTS FAILOVERS STOPS SET_BACKS`, with two workers at a time
(states, and seconds of processor time at most):

    1 1 0              723      1      in the tests, as are `1 0 1`, `2 0 0`, `1 0 0 0 1`
    1 1 0 1          5,088      5      in the tests
    1 1 0 0 1       26,915     12      in the tests with one worker at a time
    1 2 0           27,915     12
    2 1 0           87,715     43
    1 1 1          258,765     92

States that differ only in what nobody can ever read are one (`alike`), and replicas take no states (`exploration`).
Not in it: pods that only have an attempt's name, or that were created for other work (`tests/worker/test_failover.py`);
poison, quotas, schedules; Redis commands within one script or transaction, which Redis makes one step.
"""
