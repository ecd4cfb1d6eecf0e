"""Denoised NL's GR and LR as the paper writes them: N x N maps, and k x k copies of one."""

from torch import Tensor
from torch.nn import functional


def denoised_attention(
    q: Tensor, k: Tensor, v: Tensor, *, classes: Tensor | None = None, kernel_size: int | None = None
) -> Tensor:
    """Make A, rectify it to A', smooth every query's image of A' to A'', multiply with the values."""
    B, _, H, W = q.shape
    attn_BNN = (q.flatten(2).transpose(1, 2) @ k.flatten(2)).softmax(-1)
    if classes is not None:
        same_BNN = classes.flatten(2).transpose(1, 2) @ classes.flatten(2)
        attn_BNN = attn_BNN * same_BNN.sigmoid()
    if kernel_size is not None:
        attn_BNN = _smooth(attn_BNN.view(B, H * W, H, W), _similarity(q, k, kernel_size), kernel_size)
    return (v.flatten(2) @ attn_BNN.transpose(1, 2)).view_as(v)


def _similarity(q: Tensor, k: Tensor, kernel_size: int) -> Tensor:
    """Multiply each pixel's query with the keys in its window: (B, 1, k * k, N)."""
    B, D, H, W = q.shape
    neighbours = functional.unfold(k, kernel_size, padding=kernel_size // 2).view(B, D, -1, H * W)
    products_BN1T = q.flatten(2).transpose(1, 2).unsqueeze(2) @ neighbours.permute(0, 3, 1, 2)
    return products_BN1T.permute(0, 2, 3, 1).sigmoid()


def _smooth(attn_BNHW: Tensor, similarity_B1TN: Tensor, kernel_size: int) -> Tensor:
    B, N, H, W = attn_BNHW.shape
    copies = functional.unfold(attn_BNHW, kernel_size, padding=kernel_size // 2).view(B, N, -1, H * W)
    return (copies * similarity_B1TN).sum(2)
