"""Every head as one graph: `torch.compile` without a graph break, and `torch.export`, compute what the module does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from test_contract import CERTAIN, criterion, every_head, images, labels, model, unfreeze
from torch import Tensor, nn
from torch.export import Dim, export

from rayseg.segmenter import Segmenter

FIXED_BATCH = {"ccnet"}  # one image after the other: the graph has as many copies as the batch has images


@pytest.fixture(autouse=True)
def no_graphs() -> Iterator[None]:
    """Forget the compiled graphs of other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def awake(name: str) -> Segmenter:
    """Build a model that draws nothing, no parameter at its initial value."""
    net = model(name)
    unfreeze(net)
    for module in net.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return net


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert list(found) == list(expected)
    for name, logits in expected.items():
        torch.testing.assert_close(
            found[name], logits, rtol=tolerance, atol=tolerance * float(logits.detach().abs().max())
        )


@every_head
def test_a_head_compiles_to_one_graph_that_trains_alike(name: str) -> None:
    net = awake(name).train().double()
    features = [f.detach().requires_grad_() for f in net.backbone(images(2, *CERTAIN).double())]
    wanted = [*features, *net.head.parameters()]
    compiled = torch.compile(net.head, fullgraph=True, backend="aot_eager", dynamic=False)
    logits, gradients = [], []
    for head in (net.head, compiled):  # one after the other: a forward pass updates what batch norm keeps
        logits.append(outputs := head(features))
        loss = sum(o.square().mean() for o in outputs.values())
        gradients.append(torch.autograd.grad(loss, wanted, allow_unused=True))
    assert_same(logits[1], logits[0], 1e-9)
    largest = max(float(g.abs().max()) for g in gradients[0] if g is not None)
    for plain, ours in zip(*gradients, strict=True):
        assert (plain is None) == (ours is None)
        if plain is not None:
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12 * largest)


def test_the_whole_model_trains_as_one_graph() -> None:
    net = awake("fcn").train()
    x = images(2, *CERTAIN)
    outputs = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=False)(x)
    criterion(net)(outputs, labels(2, *CERTAIN))["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())
    assert_same(outputs, net(x))


@every_head
def test_an_exported_model_takes_any_batch(name: str) -> None:
    net = awake(name).eval()
    batch = {} if name in FIXED_BATCH else {0: Dim("batch", min=1, max=64)}
    program = export(net, (images(2, *CERTAIN),), dynamic_shapes=(batch,), strict=False).module()
    with torch.no_grad():
        for size in (2,) if name in FIXED_BATCH else (1, 2, 3):
            x = images(size, *CERTAIN)
            assert_same(program(x), net(x))


@pytest.mark.slow
@every_head
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_inductor_computes_the_same(name: str, training: bool) -> None:
    net = awake(name).train(training)
    x = images(2, *CERTAIN)
    compiled = torch.compile(net, fullgraph=True, backend="inductor", dynamic=False)
    with torch.set_grad_enabled(training):
        outputs = compiled(x)
        if training:
            criterion(net)(outputs, labels(2, *CERTAIN))["loss"].backward()
            assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in net.parameters())
        assert_same(outputs, net(x), 1e-3)
