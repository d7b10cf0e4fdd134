"""A small model of claim, lease, adopt, create, commit and delete, explored exhaustively: every order of all steps.

What decides is the product's own code: `runner_spec.ownership`, and `JobQueue` with its Lua scripts in an embedded
Redis. The model adds what surrounds them: workers that stop between any two steps, requests that take effect late,
replies that are lost, leases that lapse, Kubernetes and its pods, a Redis that forgets.

What it proves, for the bounds of a `Configuration` (`test_model.py` says which):

- without a failover, no attempt's pod is created twice, but by a request that was sent again for want of a reply, and
  that takes effect when the pod of the first one is gone already: deleted after its record, or by a stranger;
- without a failover, no job runs again that has succeeded;
- without a failover, a job has at most one live pod besides those whose creation took effect late: after an heir had
  looked for the pod in vain. Each of these is deleted, with no more help than that workers go on working;
- a job is green only if a pod of the recorded attempt has succeeded;
- a job has one recorded end;
- after a failover, too, at most one live pod besides late ones (checked up to the bounds that `test_model.py` names);
- from every state there is a way, without any further fault, to a world in which all jobs have ended and no pod, no
  request and no claim is left.
"""
