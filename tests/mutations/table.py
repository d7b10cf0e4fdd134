"""All sabotages."""

from typing import Final

from tests.mutations.of_the_pod import OF_THE_POD
from tests.mutations.of_the_queue import OF_THE_QUEUE

SABOTAGES: Final = (*OF_THE_QUEUE, *OF_THE_POD)
