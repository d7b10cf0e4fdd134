"""What the proxy needs from a kubeconfig, and the one that its clients get."""

import base64
import ssl
import tempfile
from pathlib import Path
from typing import Any

from yarl import URL

Json = dict[str, Any]


def current(kubeconfig: Json) -> tuple[Json, Json]:
    """The cluster and the user of the current context."""
    context = _context(kubeconfig)
    clusters = {each["name"]: each["cluster"] for each in kubeconfig["clusters"]}
    users = {each["name"]: each.get("user") or {} for each in kubeconfig["users"]}
    return clusters[context["cluster"]], users[context["user"]]


def pointed_at(kubeconfig: Json, url: str) -> Json:
    """The current context alone, with another server (`http://host:port`) that keeps the path of the first.

    A token stays; a client certificate does not: over plain HTTP there is nobody to show it to.
    """
    cluster, user = current(kubeconfig)
    context = {**_context(kubeconfig), "cluster": "proxy", "user": "proxy"}
    path = URL(cluster["server"]).raw_path.rstrip("/")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": url + path}}],
        "users": [{"name": "proxy", "user": {"token": user["token"]} if "token" in user else {}}],
        "contexts": [{"name": "proxy", "context": context}],
        "current-context": "proxy",
    }


def client_tls(kubeconfig: Json) -> ssl.SSLContext | None:
    """What the current context trusts, with its user's client certificate; None for plain HTTP."""
    cluster, user = current(kubeconfig)
    if not str(cluster["server"]).startswith("https:"):
        return None
    with tempfile.TemporaryDirectory() as folder:  # OpenSSL reads certificates and keys from files only
        authority = _file(cluster, "certificate-authority", folder)
        context = ssl.create_default_context(cafile=authority)
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate, key = _file(user, "client-certificate", folder), _file(user, "client-key", folder)
        if certificate:
            context.load_cert_chain(certificate, key)
    return context


def _file(part: Json, field: str, folder: str) -> str | None:
    if data := part.get(f"{field}-data"):
        path = Path(folder) / field
        path.write_bytes(base64.b64decode(data))
        return str(path)
    return part.get(field)


def _context(kubeconfig: Json) -> Json:
    name = kubeconfig.get("current-context")
    for each in kubeconfig["contexts"]:
        if each["name"] == name:
            context: Json = each["context"]
            return context
    raise ValueError(f"current-context={name!r}: the kubeconfig has no such context; name one that it has")
