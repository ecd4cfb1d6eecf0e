"""Distance guided channel weighting as DGCWNet's eq. 2 to 5 are written: every pair of pixels has its vectors."""

from torch import Tensor


def dgcw(
    q: Tensor, k: Tensor, v: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, *, weighting: str = "dbs"
) -> Tensor:
    """Form M, W and R for all pairs (B, N, N, C), convolve each pair twice, sum R over j."""
    q_BNC, k_BNC, v_BNC = (x.flatten(2).transpose(1, 2) for x in (q, k, v))
    m = (q_BNC[:, :, None] - k_BNC[:, None]) ** 2
    if weighting == "dbs":
        w = m / (m.sum(-1, keepdim=True) + 1e-6)
    else:
        w = m.softmax(-1) if weighting == "softmax" else m.tanh()
    r = ((w * v_BNC[:, :, None]) @ w1.T + b1).relu() @ w2.T + b2
    return r.sum(2).transpose(1, 2).reshape(q.shape[0], -1, *q.shape[2:])
