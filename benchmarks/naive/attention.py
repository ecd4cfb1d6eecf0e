"""Non-local attention as it is written: an N x N map of weights."""

from torch import Tensor


def attention(q_BDN: Tensor, k_BDN: Tensor, v_BCN: Tensor) -> Tensor:
    """Multiply all pairs, softmax over keys, multiply with the values."""
    weights_BNN = (q_BDN.transpose(1, 2) @ k_BDN).softmax(-1)
    return v_BCN @ weights_BNN.transpose(1, 2)
