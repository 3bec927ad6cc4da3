from os import PathLike
from typing import Any, Callable, Literal, Mapping, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

__version__: str
MISS: int
"""The rank of a target that is hidden from recommendation (`eval.mask`)."""

Path = Union[str, PathLike[str]]
Settings = Mapping[str, Any]
"""Settings by their names, dotted (`{"loss.tau": 0.5}`) or nested (`{"loss": {"tau": 0.5}}`)."""
Split = Literal["validation", "test"]
Checkpoint = Literal["best", "last"]
Frame = Literal["pandas", "polars"]

class LumosError(Exception):
    """What LUMOS refuses or cannot do; the message says where and what to do."""

class SettingError(LumosError):
    """A setting is unknown, mistyped or out of range."""

class DataError(LumosError):
    """A file breaks its format, or does not fit what it is used with."""

class InUseError(LumosError):
    """Another process is at work in the folder."""

class InterruptedRun(LumosError):
    """What was being prepared was stopped; what is saved is used again."""

class DataSet:
    """A prepared data set."""

    name: str
    folder: str
    fingerprint: str
    users: list[str]
    items: list[str]
    titles: list[str]
    offsets: npt.NDArray[np.uint64]
    """Where each user's items begin in `sequences` `[users + 1]`; read-only, not a copy."""
    sequences: npt.NDArray[np.uint32]
    """The items of all users behind one another, oldest first; read-only, not a copy. The last item of a user is the test target, the one before it the
    validation target."""
    def history(self, user: str) -> list[str]:
        """The items of `user` by name, oldest first. `KeyError` for a user that the data set does not have."""
    def __len__(self) -> int: ...

class Views:
    """The views of every user."""

    folder: Optional[str]
    def of(self, user: str) -> dict[str, Any]:
        """`future` (history included) and `paraphrase`, lists of item names, and `counterfactuals`, a list of such lists."""
    def __len__(self) -> int: ...

class Run:
    """A run folder."""

    folder: str
    settings: dict[str, Any]
    result: Optional[dict[str, Any]]
    """What `result.json` holds; None while the run has not ended."""
    def __init__(self, folder: Path) -> None: ...
    def rounds(self) -> list[dict[str, Any]]:
        """One dictionary a round, as in `metrics.jsonl`."""
    def ranks(self, split: Split = "test") -> npt.NDArray[np.uint32]:
        """The rank of every user's target, from 1, `MISS` where the target is hidden."""
    def weights(self, checkpoint: Checkpoint = "best") -> dict[str, npt.NDArray[Any]]:
        """The tensors of a checkpoint by name: `items [I, d]`, the dense weights, the moments of the server."""
    def evaluate(self, split: Split = "test", checkpoint: Checkpoint = "best", device: str = "auto") -> dict[str, float]:
        """Ranks every user's target among all items; gives HR@K, NDCG@K and MRR@K by name."""
    def recommend(
        self,
        user: Optional[str] = None,
        history: Optional[Sequence[str]] = None,
        k: int = 10,
        checkpoint: Checkpoint = "best",
    ) -> list[tuple[str, str, float]]:
        """The `k` best next items for a user, or for item names from the oldest to the latest: item, title and score, best first."""

def settings(config: Optional[Path] = None, settings: Optional[Settings] = None) -> dict[str, Any]:
    """Every setting that would be used, nested."""

def prepare(config: Optional[Path] = None, settings: Optional[Settings] = None) -> DataSet:
    """Prepares the data set, or opens it where it lies."""

def views(config: Optional[Path] = None, settings: Optional[Settings] = None) -> Views:
    """Makes the views of every user, or opens them where they lie."""

def train(
    config: Optional[Path] = None,
    out: Optional[Path] = None,
    settings: Optional[Settings] = None,
    resume: bool = False,
    callback: Optional[Callable[[dict[str, Any]], Any]] = None,
) -> Run:
    """Trains one method into one run folder, and tests its best checkpoint.

    `callback` gets a dictionary after every round (`event` is "round", beside what `metrics.jsonl` has) and every validation (`event` is
    "validation", with `round`, `metric`, `value` and `best`). Where it returns False, and at Ctrl-C or an exception of the callback, the run ends after
    the round and is saved; `resume=True` goes on with it, to the same bits.
    """

def runs(folder: Path = "runs") -> list[Run]:
    """Every run folder below `folder`, in the order of their paths."""

def frame(rows: Sequence[Mapping[str, Any]], kind: Frame = "pandas") -> Any:
    """Rows as a frame; a nested dictionary becomes columns `a.b`."""

def metrics(run: Union[Run, Path], kind: Frame = "pandas") -> Any:
    """The rounds of a run as a frame; validations are in columns such as `valid.HR@20`."""

def summary(folder: Path = "runs", kind: Frame = "pandas") -> Any:
    """Every run below `folder` as a frame: its folder and what its `result.json` holds."""
