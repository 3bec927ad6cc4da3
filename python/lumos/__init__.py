"""Federated sequential recommendation: LUMOS from Python.

Data sets, trainings, run folders and views, all made by the Rust library; nothing is computed here. `help(lumos.train)` and the others
say what they take; settings are those of `lumos config` (docs/settings.md).
"""

from __future__ import annotations

from . import _lumos
from ._lumos import (
    MISS,
    DataError,
    DataSet,
    InterruptedRun,
    InUseError,
    LumosError,
    Run,
    SettingError,
    Views,
    __version__,
    prepare,
    runs,
    settings,
    train,
    views,
)

__all__ = [
    "MISS",
    "DataError",
    "DataSet",
    "InUseError",
    "InterruptedRun",
    "LumosError",
    "Run",
    "SettingError",
    "Views",
    "__version__",
    "frame",
    "metrics",
    "prepare",
    "runs",
    "settings",
    "summary",
    "train",
    "views",
]


def frame(rows, kind="pandas"):
    """Rows (dictionaries) as a frame of `kind`, "pandas" or "polars", which has to be installed; a nested dictionary becomes columns `a.b`."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    columns = {name: [row.get(name) for row in flat] for name in names}
    if kind == "pandas":
        import pandas

        return pandas.DataFrame(columns)
    if kind == "polars":
        import polars

        return polars.DataFrame(columns, strict=False)
    raise ValueError(f'frame: is {kind!r}, wanted "pandas" or "polars"')


def metrics(run, kind="pandas"):
    """The rounds of a run (a `Run` or its folder) as a frame, one row a round; validations are in columns such as `valid.HR@20`."""
    run = run if isinstance(run, Run) else Run(run)
    return frame(run.rounds(), kind)


def summary(folder="runs", kind="pandas"):
    """Every run below `folder` as a frame, one row a run: its folder and what its `result.json` holds."""
    return frame([{"folder": str(run.folder), **(run.result or {})} for run in runs(folder)], kind)


def _flat(row, path=""):
    out = {}
    for name, value in row.items():
        if isinstance(value, dict):
            out.update(_flat(value, f"{path}{name}."))
        else:
            out[f"{path}{name}"] = value
    return out
