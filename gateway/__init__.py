"""The gateway: what the containers of a job's pod talk to over HTTP, and what stands between them and the stores.

A request comes in through `middleware` (id, log, metrics, errors as JSON), is matched to a handler of `routes`, has its
token verified by `bearer` and `identity`, its address checked by `addressing`, its body read by `body` and checked by
`seal`, and ends in the object store or, for masks, in Redis. `server` puts the pieces together.
"""
