"""What rq's own worker executes in the contract test, where ours starts a pod."""


def succeed(_job: dict[str, object]) -> dict[str, str]:
    return {"verdict": "succeeded"}


def explode(_job: dict[str, object]) -> None:
    raise RuntimeError("exit 3")
