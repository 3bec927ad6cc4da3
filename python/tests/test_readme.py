"""Runs the blocks of the README in their order, and what the README promises beside them. `python -m pytest python/tests`, or the file alone."""

import os
import pathlib
import re
import tempfile

import numpy as np

import lumos

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def blocks():
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)


def run_readme(folder):
    os.chdir(folder)
    names = {}
    for block in blocks():
        exec(compile(block, str(README), "exec"), names)
    return names


def refused(kind, part, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        assert part in str(error), error
        return
    raise AssertionError(f"{function} did not raise {kind}")


def test_readme_and_what_it_promises():
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        try:
            names = run_readme(folder)
            check(names)
        finally:
            os.chdir(before)


def check(names):
    data, run, small = names["data"], names["run"], names["small"]
    # Arrays are borrowed and cannot be written.
    assert len(data) == 200 and data.offsets[-1] == len(data.sequences) and not data.sequences.flags.writeable
    sequences = data.sequences
    assert np.shares_memory(sequences, data.sequences), "an array is no copy"
    del data
    assert sequences.sum() > 0, "an array keeps its data set alive"
    # What Python says is what the run folder says.
    ranks = run.ranks("test")
    assert abs((ranks <= 20).mean() - run.result["test"]["HR@20"]) < 1e-12
    assert run.evaluate("test")["HR@20"] == run.result["test"]["HR@20"]
    assert run.settings["model"]["dim"] == 16 and run.weights()["items"].dtype == np.float32
    assert len(lumos.metrics(run, kind="polars")) == 6 and len(lumos.runs("runs")) == 1
    # A run that the callback stops goes on to the same bits.
    seen = []
    stopped = lumos.train(settings=small, out="stopped", callback=lambda event: seen.append(event) or len(seen) < 3)
    assert stopped.result is None and len(stopped.rounds()) < 6
    went_on = lumos.train(settings=small, out="stopped", resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(went_on.weights("last").values(), run.weights("last").values()))
    # An exception of the callback comes out, with the run saved.
    def broken(event):
        raise RuntimeError("mine")
    refused(RuntimeError, "mine", lumos.train, settings=small, out="broken", callback=broken)
    assert len(lumos.Run("broken").rounds()) >= 1
    refused(lumos.SettingError, "did you mean `fed-sasrec`", lumos.settings, settings={"method": "fed-sasrek"})
    refused(lumos.LumosError, "already", lumos.train, settings=small, out="runs/twin")
    refused(OSError, "nowhere.toml", lumos.prepare, "nowhere.toml")
    refused(lumos.DataError, "nowhere", lumos.Run, "nowhere")
    refused(ValueError, "validation", run.ranks, "valid")
    refused(TypeError, "loss.tau", lumos.settings, settings={"loss.tau": object()})
    refused(KeyError, "stranger", lumos.views(settings=names["world"]).of, "stranger")
    refused(lumos.LumosError, "no user", run.recommend, user="stranger")
    refused(ValueError, "either", run.recommend)


if __name__ == "__main__":
    test_readme_and_what_it_promises()
    print("python: the README's blocks and its promises hold")
