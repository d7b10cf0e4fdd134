"""The part of a fake node's kubelet that nobody plays: the logs of its containers, answered by the proxy.

Without them a worker would look for each log for half a minute, and declare it missing. They are not judged.
"""

from typing import Any, Final

from aiohttp import web

from tests.chaos.faults import KubernetesFault
from tests.chaos.kubernetes_proxy import KubernetesProxy, RequestFacts

LINE: Final = b"2026-01-01T00:00:00.000000000Z a fake pod was here\n"


class ClusterProxy(KubernetesProxy):
    """The proxy of `tests.chaos`, which also tells the logs of one namespace; a request that is to fail still does."""

    namespace_of_fakes = ""

    async def _answer_stream(self, request: web.BaseRequest, facts: RequestFacts, fault: KubernetesFault | None) -> Any:
        if facts.verb == "log" and facts.namespace == self.namespace_of_fakes and fault is None:
            return web.Response(body=LINE, content_type="text/plain")
        return await super()._answer_stream(request, facts, fault)
