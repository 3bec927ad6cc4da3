class Model(nn.Module):
    """GRU4Rec as LUMOS trains it."""

    def __init__(self, c):
        super().__init__()
        d = c["dim"]
        self.items, self.gru, self.out = nn.Embedding(c["rows"], d), nn.GRU(d, d, c["blocks"]), nn.Linear(d, d)
        self.c = c

    def forward(self, history):  # item indices, oldest first -> hidden state [d]
        states, _ = self.gru(self.items.weight[history[-self.c["max_len"] :]] * self.c["scale"])
        return self.out(states[-1])
