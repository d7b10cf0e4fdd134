"""The errors of the adapters in the command line's words: whose fault it is decides the exit status."""

from collections.abc import Iterator
from contextlib import contextmanager

from worker.cli.exit_status import InvalidInputError, PlatformError


@contextmanager
def told_as_faults() -> Iterator[None]:
    """Translate what the block raises.

    Raises:
        InvalidInputError: settings, policy, URLs or the Redis behind one cannot be used.
        PlatformError: Redis, Kubernetes, the store or the network failed.
    """
    from adapters.kubernetes_api import ApiError
    from adapters.object_store import StoreConfigError, StoreError
    from adapters.redis_fitness import UnfitRedis
    from adapters.redis_server import BadRedisURL, RedisError
    from gateway.server import GatewayStartError
    from runner_spec.problem import ProblemsError
    from worker.queue.errors import QueueError
    from worker.settings import SettingsError

    try:
        yield
    except (SettingsError, ProblemsError, StoreConfigError, BadRedisURL, UnfitRedis) as error:
        raise InvalidInputError(str(error)) from error
    except (ApiError, RedisError, QueueError, StoreError, GatewayStartError) as error:
        raise PlatformError(str(error)) from error
