

def load():
    """The model with its weights."""
    model = Model(json.loads((HERE / "model.json").read_text()))
    model.load_state_dict(load_file(HERE / "model.safetensors"))
    return model.eval()


@torch.no_grad()
def scores(model, history):
    """The score of every item `[I]` after `history`, item indices from the oldest to the latest."""
    return model.items.weight[: model.c["items"]] @ model(torch.as_tensor(history))


@torch.no_grad()
def rank(model, history, target, hidden=()):
    """The rank of `target` from 1, as LUMOS counts it: items that score no less come before it, `hidden` ones are left out."""
    s = scores(model, history)
    keep = torch.ones_like(s, dtype=torch.bool)
    keep[torch.as_tensor(list(hidden), dtype=torch.long)] = False
    keep[target] = True
    return int((s[keep] >= s[target]).sum())


if __name__ == "__main__":
    with open(HERE / "items.csv", newline="") as file:
        items = [(row["item_id"], row["title"]) for row in csv.DictReader(file)]
    index = {name: i for i, (name, _) in enumerate(items)}
    if len(sys.argv) < 2 or any(name not in index for name in sys.argv[1:]):
        sys.exit(__doc__)
    top = scores(load(), [index[name] for name in sys.argv[1:]]).topk(min(10, len(items)))
    for score, i in zip(top.values, top.indices):
        print(f"{score:.3f}", *items[i])
