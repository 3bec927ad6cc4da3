"""A model that LUMOS trained, in PyTorch. Needs torch and safetensors.

    python model.py ITEM ITEM ...       the ten best next items after these, oldest first, by their names in items.csv

    import model; m = model.load(); scores = model.scores(m, [3, 17, 4])        by their index
"""

import csv
import json
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent


