class Block(nn.Module):
    def __init__(self, d, inner, heads):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.f1, self.f2 = nn.Linear(d, inner), nn.Linear(inner, d)
        self.norm1, self.norm2, self.heads = nn.LayerNorm(d), nn.LayerNorm(d), heads

    def forward(self, x):  # [T, d]
        q, k, v = (y.view(len(y), self.heads, -1).transpose(0, 1) for y in (self.q(x), self.k(x), self.v(x)))
        y = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(x.shape)
        x = self.norm1(x + self.o(y))
        return self.norm2(x + self.f2(F.gelu(self.f1(x), approximate="tanh")))


class Model(nn.Module):
    """BERT4Rec as LUMOS trains it: a mask is appended, and its state is scored."""

    def __init__(self, c):
        super().__init__()
        d = c["dim"]
        self.items, self.positions, self.norm = nn.Embedding(c["rows"], d), nn.Embedding(c["max_len"], d), nn.LayerNorm(d)
        self.blocks = nn.ModuleList(Block(d, c["inner"], c["heads"]) for _ in range(c["blocks"]))
        self.out, self.out_norm = nn.Linear(d, d), nn.LayerNorm(d)
        self.c = c

    def forward(self, history):  # item indices, oldest first -> hidden state [d]
        mask = torch.tensor([self.c["asked"]])
        history = torch.cat([history[len(history) - min(len(history), self.c["max_len"] - 1) :], mask])
        first = self.c["max_len"] - len(history) if self.c["positions"] == "last" else 0
        x = self.norm(self.items.weight[history] * self.c["scale"] + self.positions.weight[first : first + len(history)])
        for block in self.blocks:
            x = block(x)
        return self.out_norm(F.gelu(self.out(x[-1]), approximate="tanh"))
