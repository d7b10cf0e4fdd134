"""A sabotage: one edit of one file, the promise that it breaks, and the tests that must notice it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sabotage:
    """One edit: `before`, which is there exactly once, becomes `after`.

    `file` is relative to the project; `breaks` one sentence, what then happens; `caught_by` pytest's node ids, each of
    which must fail. `hangs`: that a test runs out of time is how it notices.
    """

    name: str
    file: str
    before: str
    after: str
    breaks: str
    caught_by: tuple[str, ...]
    hangs: bool = False

    def applied_to(self, text: str) -> str:
        """The file's text with the edit.

        Raises:
            ValueError: the edit does not fit: the product has changed.
        """
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.name}: {self.before!r} occurs {count} times in {self.file}, not once")
        return text.replace(self.before, self.after)
