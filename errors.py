"""The tree of things a person can put right; each carries what happened and the cure.

FootnoteError
├── UsageError            a wrong argument or setting                           exit 2
├── IndexMissing          no index there yet                                    exit 10
├── IndexDamaged          a file of the index is not what was published         exit 4
├── IndexTooNew           written by a newer Footnote                           exit 1
├── IndexMismatch         built with another embedder or format                 exit 1
├── LockHeld              another writer is at work                             exit 11
├── NoSpace               the disk is full                                      exit 12
├── DiskFailed            the disk gave an I/O error                            exit 1
├── PruneRefused          a refresh would remove too much                       exit 1
├── ModelMissing          a model file is absent or not what it should be       exit 1
├── DocumentUnreadable    one file gave no text (reason and cure for the report)
├── EngineUnavailable     the engine process cannot be reached or has died      exit 1
├── Busy                  the queue is full                                     exit 1
└── UnknownUser           `--as` names nobody                                   exit 2

Anything else is a fault of the program: its traceback goes to the log, a short number to the person.
"""


class FootnoteError(Exception):
    """What happened, and what to do about it."""

    exit_code = 1

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message} {self.cure}".strip()


class UsageError(FootnoteError):
    exit_code = 2


class IndexMissing(FootnoteError):
    exit_code = 10


class IndexDamaged(FootnoteError):
    exit_code = 4


class IndexTooNew(FootnoteError):
    pass


class IndexMismatch(FootnoteError):
    pass


class LockHeld(FootnoteError):
    exit_code = 11


class NoSpace(FootnoteError):
    exit_code = 12


class DiskFailed(FootnoteError):
    pass


class PruneRefused(FootnoteError):
    pass


class ModelMissing(FootnoteError):
    pass


class DocumentUnreadable(FootnoteError):
    """`kind` is one of: encrypted, damaged, scanned, bomb, unsupported, empty, too_large, timed_out, out_of_memory, crashed."""

    def __init__(self, kind: str, message: str, cure: str = "") -> None:
        super().__init__(message, cure)
        self.kind = kind


class EngineUnavailable(FootnoteError):
    pass


class Busy(FootnoteError):
    pass


class UnknownUser(FootnoteError):
    exit_code = 2
