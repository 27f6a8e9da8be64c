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

    def __init__(self) -> None:
        self._hits: torch.Tensor | int = 0
        self._samples = 0

    def add(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """`scores` [n, classes], `labels` int64 [n]. With fewer than five classes top-5 is always 1."""
        best = scores.topk(min(5, scores.shape[1]), dim=1).indices
        hits = best == labels[:, None]
        self._hits = self._hits + torch.stack((hits[:, 0].sum(), hits.any(1).sum()))
        self._samples += len(labels)

    def result(self) -> Accuracy:
        if not self._samples:
            raise ValueError("no sample was evaluated; the evaluation set is empty")
        top1, top5 = torch.as_tensor(self._hits).tolist()
        return Accuracy(top1 / self._samples, top5 / self._samples, self._samples)
