"""Dilated local attention as GALD's eq. 8 is written: every tap of every pixel is copied."""

from torch import Tensor
from torch.nn import functional


def local_attention(q: Tensor, k: Tensor, v: Tensor, *, kernel_size: int, dilation: int) -> Tensor:
    """Copy k x k taps of every pixel, softmax over them. Zero padding: outside, logit 0 and value 0."""
    B, D, H, W = q.shape
    padding = dilation * (kernel_size // 2)
    keys, values = (functional.unfold(x, kernel_size, dilation=dilation, padding=padding) for x in (k, v))
    keys, values = keys.view(B, D, -1, H * W), values.view(B, v.shape[1], -1, H * W)
    weights = (q.view(B, D, 1, H * W) * keys).sum(1, keepdim=True).softmax(2)
    return (weights * values).sum(2).view(B, -1, H, W)
