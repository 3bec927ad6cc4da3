class Block(nn.Module):
    def __init__(self, d, inner, heads, normed):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.f1, self.f2 = nn.Linear(d, inner), nn.Linear(inner, d)
        self.heads, self.normed = heads, normed

    def forward(self, x):  # [T, d]
        n = self.norm1(x)
        q, k, v = (y.view(len(y), self.heads, -1).transpose(0, 1) for y in (self.q(n), self.k(x), self.v(x)))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(x.shape)
        x = (n if self.normed else x) + self.o(y)
        n = self.norm2(x)
        return (n if self.normed else x) + self.f2(F.relu(self.f1(n)))


class Model(nn.Module):
    """SASRec as LUMOS trains it: queries from the norm, keys and values from the block's input."""

    def __init__(self, c):
        super().__init__()
        d = c["dim"]
        self.items, self.positions = nn.Embedding(c["rows"], d), nn.Embedding(c["max_len"], d)
        self.blocks = nn.ModuleList(Block(d, c["inner"], c["heads"], c["residual"] == "normed") for _ in range(c["blocks"]))
        self.norm = nn.LayerNorm(d)
        self.c = c

    def forward(self, history):  # item indices, oldest first -> hidden state [d]
        history = history[-self.c["max_len"] :]
        first = self.c["max_len"] - len(history) if self.c["positions"] == "last" else 0
        x = self.items.weight[history] * self.c["scale"] + self.positions.weight[first : first + len(history)]
        for block in self.blocks:
            x = block(x)
        return self.norm(x[-1])
