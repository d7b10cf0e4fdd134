"""The volumes of a job's pod, and where its containers see them."""

from typing import Any, Final

from runner_spec import anatomy
from runner_spec.admission import EffectiveJob
from runner_spec.description import FolderSource, GitSource
from runner_spec.policy import Policy

Manifest = dict[str, Any]  # JSON-pure

DRIVEN_MODE: Final = 0o444  # of the plan's files
SECRET_MODE: Final = 0o440  # readable through fsGroup
TOKEN_SECONDS: Final = 3600  # Kubernetes' minimum is 600; the kubelet renews the token at 80 % of it
IMAGE_BIN_SUBPATH: Final = anatomy.BIN_PATH.lstrip("/")  # where the runner's image holds the shell and the shim


def common_mounts() -> list[Manifest]:
    """What `checkout`, `upload` and `run` all see."""
    return [
        mount("workspace", anatomy.WORKSPACE_PATH),
        mount("home", anatomy.HOME_PATH),
        mount("state", anatomy.STATE_PATH),
        mount("plan", anatomy.PLAN_PATH, read_only=True),
    ]


def mount(volume: str, path: str, *, read_only: bool = False) -> Manifest:
    """One volume at a path."""
    made: Manifest = {"name": volume, "mountPath": path}
    return {**made, "readOnly": True} if read_only else made


def bin_mount(policy: Policy) -> Manifest:
    """The shell and the shim as `run` sees them."""
    made = mount("bin", anatomy.BIN_PATH, read_only=True)
    return {**made, "subPath": IMAGE_BIN_SUBPATH} if policy.shim_delivery == "image-volume" else made


def volumes(job: EffectiveJob, policy: Policy, *, runner: bool) -> list[Manifest]:
    """The pod's volumes; `runner` says whether a container of the runner's image is in it."""
    description, source = job.description, job.description.source
    # One volume that fills up is named when the kubelet evicts the pod; that all of them together, the logs and what
    # is written elsewhere keep to the containers' limits is the kubelet's to see as well.
    disk, small = str(job.resources["ephemeral-storage"]), anatomy.SMALL_VOLUME
    sizes = {"workspace": disk, "home": disk, "state": small}
    if policy.shim_delivery == "copy":
        sizes["bin"] = small
    if runner:
        sizes["tmp"] = str(policy.runner_resources.limits.ephemeral_storage)
    made: list[Manifest] = [{"name": name, "emptyDir": {"sizeLimit": size}} for name, size in sizes.items()]
    if policy.shim_delivery == "image-volume":
        image = {"reference": policy.runner_image, "pullPolicy": policy.image_pull_policy}
        made.append({"name": "bin", "image": image})
    files = {anatomy.PLAN_FILE: anatomy.ANNOTATION_PLAN, anatomy.STEPS_FILE: anatomy.ANNOTATION_STEPS}
    items = [
        {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
        for path, annotation in files.items()
    ]
    made.append({"name": "plan", "downwardAPI": {"defaultMode": DRIVEN_MODE, "items": items}})
    if runner:
        made.append(_token_volume())
    if isinstance(source, GitSource) and source.credentials:
        # Optional: a missing Secret would leave the pod waiting without a word in its status; checkout can say it.
        secret = {"secretName": source.credentials.secret, "defaultMode": SECRET_MODE, "optional": True}
        made.append({"name": "credentials", "secret": secret})
    if isinstance(source, FolderSource):
        made.append({"name": "source", "hostPath": {"path": source.folder, "type": "Directory"}})
    if description.secrets:
        # Optional, as above: the variables are not, and the kubelet then names the Secret in the pod's status.
        projections = [
            {"secret": {"name": ref.secret, "items": [{"key": ref.key, "path": name}], "optional": True}}
            for name, ref in sorted(description.secrets.items())
        ]
        made.append({"name": "secrets", "projected": {"defaultMode": SECRET_MODE, "sources": projections}})
    return made


def _token_volume() -> Manifest:
    token = {"audience": anatomy.TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": anatomy.TOKEN_FILE}
    sources = [{"serviceAccountToken": token}]
    return {"name": "token", "projected": {"defaultMode": SECRET_MODE, "sources": sources}}
