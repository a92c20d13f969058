"""Records that could be: whatever the declared domains allow, and nothing of anybody.

What is tried on them is tried at the values that real records have, their extremes included.
"""

import torch
from torch import Tensor

from lethe.data.encoding import Encoder

_WORDS = 12


def possible_records(
    encoder: Encoder, count: int, *, extreme: bool, numbers: torch.Generator
) -> Tensor:
    """Encoded records, each column drawn by itself; float32 [count, len(encoder.names)].

    Args:
        extreme: numbers are at a limit or missing, categories the first, last or missing one, a
            text is one word; else everything declared is as likely.
    """
    parts = [
        _texts(column.buckets, count, words=1 if extreme else _WORDS, numbers=numbers)
        if column.role == "text"
        else _number(count, extreme=extreme, numbers=numbers)
        if column.categories is None
        else _categories(len(column.categories), count, extreme=extreme, numbers=numbers)
        for column in encoder.features.values()
    ]
    return torch.cat(parts, 1) if parts else torch.zeros(count, 0)


def _number(count: int, *, extreme: bool, numbers: torch.Generator) -> Tensor:
    value = torch.rand(count, generator=numbers) * 2 - 1
    absent = torch.rand(count, generator=numbers) < (1 / 3 if extreme else 0.1)
    if extreme:
        value = torch.where(value > 0, 1.0, -1.0)
    return torch.stack([value.masked_fill(absent, 0.0), absent.float()], 1)


def _categories(known: int, count: int, *, extreme: bool, numbers: torch.Generator) -> Tensor:
    place = torch.randint(0, known + 1, (count,), generator=numbers)
    if extreme:
        place = torch.tensor([0, max(known - 1, 0), known])[place % 3]
    return torch.nn.functional.one_hot(place, known + 1).float()


def _texts(buckets: int, count: int, *, words: int, numbers: torch.Generator) -> Tensor:
    out = torch.zeros(count, buckets)
    for _ in range(words):
        place = torch.randint(0, buckets, (count, 1), generator=numbers)
        sign = torch.randint(0, 2, (count, 1), generator=numbers).float() * 2 - 1
        out.scatter_add_(1, place, sign)
    return out / out.norm(dim=1, keepdim=True).clamp_min(1.0)
