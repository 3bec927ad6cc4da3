"""SASRec as LUMOS trains it. `python model.py FOLDER 3 17 42` prints the ten best item rows for a history of item rows, oldest first."""
import json, sys, torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


class Block(nn.Module):
    def __init__(self, d, inner):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.f1, self.f2 = nn.Linear(d, inner), nn.Linear(inner, d)

    def forward(self, x, heads, normed):  # x [T, d]
        split = lambda t: t.view(len(t), heads, -1).transpose(0, 1)[None]
        n = self.norm1(x)
        mixed = F.scaled_dot_product_attention(split(self.q(n)), split(self.k(x)), split(self.v(x)), is_causal=True)
        x = self.o(mixed[0].transpose(0, 1).reshape(x.shape)) + (n if normed else x)
        n = self.norm2(x)
        return self.f2(F.relu(self.f1(n))) + (n if normed else x)


class SASRec(nn.Module):
    def __init__(self, folder):
        super().__init__()
        self.c = c = json.load(open(f"{folder}/config.json"))
        self.items, self.positions = nn.Embedding(c["rows"], c["dim"]), nn.Embedding(c["max_len"], c["dim"])
        self.blocks = nn.ModuleList(Block(c["dim"], c["inner"]) for _ in range(c["blocks"]))
        self.norm = nn.LayerNorm(c["dim"])
        self.load_state_dict(load_file(f"{folder}/model.safetensors"))

    def forward(self, history):  # item rows [T], oldest first; scores [items]
        history = torch.as_tensor(history)[-self.c["max_len"]:]
        first = self.c["max_len"] - len(history) if self.c["positions_from_the_end"] else 0
        x = self.items(history) * self.c["scale"] + self.positions(first + torch.arange(len(history)))
        for block in self.blocks:
            x = block(x, self.c["heads"], self.c["residual_of_the_normed_input"])
        return self.items.weight[: self.c["items"]] @ self.norm(x)[-1]


if __name__ == "__main__":
    with torch.no_grad():
        scores = SASRec(sys.argv[1])([int(row) for row in sys.argv[2:]])
    for score, row in zip(*torch.topk(scores, min(10, len(scores)))):
        print(int(row), f"{float(score):.4f}")
