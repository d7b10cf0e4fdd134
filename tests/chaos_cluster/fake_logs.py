"""The part of a fake node's kubelet that nobody plays: the logs of its containers, answered by the proxy.

Without them a worker would look for each log for half a minute, and declare it missing.
"""

from typing import Any

from aiohttp import web

from tests.chaos.faults import KubernetesFault
from tests.chaos.kubernetes_proxy import KubernetesProxy, RequestFacts

# No log of a fake pod has more than one line, so none has an order to get wrong.
STAMP = b"2026-01-01T00:00:00.000000000Z "


def fake_log(pod: str) -> bytes:
    """What a container of a fake pod has written, without timestamps."""
    return f"{pod} was here\n".encode()


class ClusterProxy(KubernetesProxy):
    """The proxy of `tests.chaos`, which also tells the logs of one namespace; a request that is to fail still does."""

    namespace_of_fakes = ""

    async def _answer_stream(self, request: web.BaseRequest, facts: RequestFacts, fault: KubernetesFault | None) -> Any:
        if facts.verb == "log" and facts.namespace == self.namespace_of_fakes and fault is None:
            return web.Response(body=STAMP + fake_log(facts.name), content_type="text/plain")
        return await super()._answer_stream(request, facts, fault)
