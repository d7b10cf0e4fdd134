import pytest

from runner_spec.refusal import Answer, read_answer, refusal_outcome, words_of

FULL = 'pods "dp-a-1" is forbidden: exceeded quota: jobs, requested: pods=1, used: pods=9, limited: pods=9'


@pytest.mark.parametrize(
    ("code", "message", "answer"),
    [
        (0, "connection refused", Answer.LATER),
        (429, "too many requests", Answer.LATER),
        (500, 'failed calling webhook "pods.example.com": connection refused', Answer.LATER),
        (503, "the server is currently unable to handle the request", Answer.LATER),
        (403, FULL, Answer.FULL),
        (403, 'pods "a" is forbidden: violates PodSecurity "restricted:latest": hostPort', Answer.REJECTED),
        (403, 'admission webhook "images.example.com" denied the request: exceeded patience', Answer.REJECTED),
        (400, 'admission webhook "images.example.com" denied the request: no', Answer.REJECTED),
        (422, "spec.containers[0].image: Required value", Answer.REJECTED),
        (403, 'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods"', Answer.BROKEN),
        (403, 'pods "a" is forbidden: failed quota: gpus: must specify limits.nvidia.com/gpu', Answer.BROKEN),
        (403, 'pods "a" is forbidden: status unknown for quota: jobs, resources: pods', Answer.LATER),
        (
            403,
            'pods "a" is forbidden: insufficient quota to match these scopes: [{BestEffort Exists []}]',
            Answer.BROKEN,
        ),
        (401, "Unauthorized", Answer.BROKEN),
        (404, 'namespaces "jobs" not found', Answer.BROKEN),
        (409, 'pods "dp-a-1" already exists', Answer.BROKEN),
        (409, 'Operation cannot be fulfilled on resourcequotas "a": the object has been modified', Answer.LATER),
        (413, "Request entity too large: limit is 3145728", Answer.REJECTED),
        (500, "etcdserver: request is too large", Answer.REJECTED),
        (500, "trying to send message larger than max (2501004 vs. 2097152)", Answer.REJECTED),
    ],
)
def test_a_refusal_says_who_has_to_act(code: int, message: str, answer: Answer) -> None:
    assert read_answer(code, message) is answer


def test_the_words_do_not_repeat_the_pods_name() -> None:
    assert words_of(FULL) == "exceeded quota: jobs, requested: pods=1, used: pods=9, limited: pods=9"
    assert words_of("namespaces not found") == "namespaces not found"


def test_the_words_are_one_line_of_bounded_length_whatever_a_webhook_says() -> None:
    outcome = refusal_outcome(400, 'admission webhook "a" denied the request: \x1b[2J' + "no\n" * 500_000)
    assert outcome.message.isprintable()
    assert len(outcome.message) < 1100
