"""CGNL's dot product as its paper defines it: the affinity of all (channel, pixel) pairs of a group."""

from torch import Tensor


def generalised(theta: Tensor, phi: Tensor, g: Tensor, *, groups: int) -> Tensor:
    """Make the (C / groups * H * W) squared affinity of each group, multiply with g."""
    theta_BGM, phi_BGM, g_BGM = (x.unflatten(1, (groups, -1)).flatten(2) for x in (theta, phi, g))
    affinity_BGMM = theta_BGM.unsqueeze(3) * phi_BGM.unsqueeze(2)
    return (affinity_BGMM @ g_BGM.unsqueeze(3)).view_as(theta)
