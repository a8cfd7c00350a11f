"""A decode loop of your own, watched unchanged: `python examples/own_loop.py`. The model is small and random."""

import torch

import perstep


class Model(torch.nn.Module):
    """One layer and a head: float [rows, vocabulary] for the next token of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(500, 64)
        self.layer = torch.nn.GRU(64, 64, batch_first=True)
        self.head = torch.nn.Linear(64, 500)

    def forward(self, ids: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and the state after these ids, int [rows, positions]."""
        hidden, state = self.layer(self.embed(ids), state)
        return self.head(hidden[:, -1]), state


def decode(model: Model, prompt: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """The ids with their continuation, int [rows, positions + new_tokens]."""
    ids, (scores, state) = prompt, model(prompt)
    for _ in range(new_tokens):
        chosen = scores.argmax(-1, keepdim=True)
        ids = torch.cat([ids, chosen], dim=1)
        scores, state = model(chosen, state)
    return ids


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Model().eval()
    with torch.no_grad(), perstep.watch(model) as watched:
        decode(model, torch.arange(8)[None], new_tokens=200)
    print(watched)
