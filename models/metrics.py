"""Top-k accuracy (section 4.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Accuracy:
    """Shares of samples, 0 … 1, whose label is the likeliest class, or among the five likeliest."""

    top1: float
    top5: float
    samples: int


class TopK:
    """Counts hits over batches, on the scores' device: no synchronisation until `result`."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.totals = torch.zeros(3, dtype=torch.int64, device=device)  # hits of top-1 and top-5, samples

    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """`scores` [n, classes], `labels` int64 [n]. With fewer than five classes top-5 is always 1."""
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        self.totals += torch.stack((hits[:, 0].sum(), hits.any(1).sum(), torch.full_like(labels[0], len(labels))))

    def result(self) -> Accuracy:
        top1, top5, samples = self.totals.tolist()
        if not samples:
            raise ValueError("no sample was evaluated; the evaluation set is empty")
        return Accuracy(top1 / samples, top5 / samples, samples)
