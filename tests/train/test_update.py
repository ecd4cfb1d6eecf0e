"""One update: clipping, the moving average, gradients that are not finite, float16's scale, memory that is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_update import DROPLESS, GROUP, config, digest, updated, updater, weights
from torch import Tensor, nn

from rayseg import config as configs
from rayseg.config import TrainConfig
from rayseg.errors import UsageError
from rayseg.segmenter import fingerprint
from rayseg.train import shortage
from rayseg.train.step import compiler_faults, seed_step
from rayseg.train.update import Updater

PLAIN_SGD: dict[str, Any] = {"optim__momentum": 0.0, "optim__weight_decay": 0.0, "optim__schedule": "constant"}


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    return {name for name in one if not torch.equal(one[name], other[name])}


# --- what is applied ------------------------------------------------------------------------------------------------


def test_micro_batches_change_the_weights_as_the_undivided_batch_does() -> None:
    """In float32, to rounding: the difference is a thousandth of the change itself, and of another batch's more."""
    start, whole, divided = (updater(config(**GROUP, train__accumulate=n)) for n in (1, 1, 4))
    one, two = updated(whole, 3), updated(divided, 3)
    assert [losses["loss"] for losses in one] == pytest.approx([losses["loss"] for losses in two], rel=1e-4)
    moved, apart = (
        torch.stack([(a[n] - b[n]).norm() for n in a if a[n].is_floating_point()]).norm()
        for a, b in ((weights(whole), weights(start)), (weights(whole), weights(divided)))
    )
    assert apart < 1e-3 * moved


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_norm_of_all_gradients_is_clipped_and_said(accumulate: int) -> None:
    free, clipped = (
        updater(config(**GROUP, **PLAIN_SGD, train__accumulate=accumulate, train__clip_norm=limit))
        for limit in (None, 0.01)
    )
    start = weights(free)
    norms = [updated(of, 1)[0]["grad_norm"] for of in (free, clipped)]
    steps = [
        torch.stack(
            [(weights(of)[name] - start[name]).norm() for name in start if start[name].is_floating_point()]
        ).norm()
        / of.config.optim.lr
        for of in (free, clipped)
    ]
    assert norms == pytest.approx([float(steps[0])] * 2, rel=1e-3)  # what is said is the norm before it is clipped
    assert norms[0] > 0.1
    assert float(steps[1]) == pytest.approx(0.01, rel=1e-3)


def test_the_average_is_of_weights_and_statistics_and_changes_nothing_else() -> None:
    with_one, without = updater(config(train__ema_decay=0.75)), updater(config())
    expected = weights(with_one)
    for step in range(3):
        updated(with_one, 1, start=step)
        now = weights(with_one)
        expected = {n: 0.75 * t + 0.25 * now[n] if t.is_floating_point() else now[n] for n, t in expected.items()}
        torch.testing.assert_close(with_one.judged.state_dict(), expected, rtol=1e-6, atol=1e-7)
    updated(without, 3)
    assert not changed(weights(with_one), weights(without))
    assert without.judged is without.parts.model
    assert not any(module.training for module in with_one.judged.modules())


# --- gradients that are not finite ----------------------------------------------------------------------------------


def spoiled(of: Updater, value: float) -> Callable[[], None]:
    """Let one gradient be `value` until the handle that is given removes it."""
    parameter = next(iter(of.parts.model.head.parameters()))

    def spoil(grad: Tensor) -> Tensor:
        grad = grad.clone()
        grad.view(-1)[0] = value
        return grad

    return parameter.register_hook(spoil).remove


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", [{}, {"optim__name": "adamw", "train__clip_norm": 1.0, "train__accumulate": 2}])
def test_a_gradient_that_is_not_finite_changes_nothing(value: float, settings: dict[str, Any]) -> None:
    of = updater(config(train__ema_decay=0.9, **settings))
    updated(of, 1)
    assert of.finite()
    before, remove = digest(of), spoiled(of, value)
    assert "grad_norm" not in updated(of, 1, start=1)[0]
    assert digest(of) == before
    assert not of.finite()
    assert of.finite()  # it answers for what was since the last question
    remove()
    assert "grad_norm" in updated(of, 1, start=1)[0]
    assert digest(of) != before
    assert of.finite()


# --- float16 --------------------------------------------------------------------------------------------------------


def test_float16_computes_nearly_what_float32_does() -> None:
    exact, half = (updater(config(**GROUP, train__precision=name)) for name in ("fp32", "fp16"))
    half._scaler.load_state_dict(half._scaler.state_dict() | {"scale": 2.0**10})
    one, two = updated(exact, 1)[0], updated(half, 1)[0]
    assert two["loss"] == pytest.approx(one["loss"], rel=2e-2)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=5e-2)  # of the gradients, not of the scaled ones
    assert (half.finite(), half._scaler.get_scale()) == (True, 2.0**10)


def test_a_scale_too_large_is_halved_without_an_update_and_without_complaint() -> None:
    of = updater(config(**GROUP, train__precision="fp16"))
    of._scaler.load_state_dict(of._scaler.state_dict() | {"scale": 2.0**60})
    before = weights(of)
    assert "grad_norm" not in updated(of, 1)[0]
    assert not changed(before, weights(of))
    assert (of.finite(), of._scaler.get_scale()) == (True, 2.0**59)


def test_a_gradient_that_no_scale_mends_is_no_overflow() -> None:
    of = updater(config(**GROUP, train__precision="fp16"))
    spoiled(of, float("nan"))
    asked = []
    for _ in range(18):
        of._applied(_spoilt_loss(of))
        asked.append(of.finite())
    assert asked == [True] * 16 + [False] * 2


def _spoilt_loss(of: Updater) -> Tensor:
    of.parts.optimizer.zero_grad()
    loss = torch.stack([p.sum() for p in of.parts.model.head.parameters()]).sum()
    of._scaler.scale(loss).backward()
    return loss.detach()


# --- memory ---------------------------------------------------------------------------------------------------------


def short_of(of: Updater, images: int, error: type[Exception], says: str = "CUDA out of memory. Tried…") -> list[int]:
    """Let memory suffice for so many images: the head raises above, after the backbone has moved its statistics."""
    sizes: list[int] = []

    def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
        sizes.append(len(given[0][0]))
        if sizes[-1] > images:
            raise error(says)

    of.parts.model.head.register_forward_pre_hook(hook)
    return sizes


CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize(("error", "says"), [(torch.OutOfMemoryError, "CUDA out of memory."), (RuntimeError, CPU)])
@pytest.mark.parametrize(("images", "parts"), [(2, 2), (1, 4)])
def test_the_step_is_done_again_in_micro_batches(error: type[Exception], says: str, images: int, parts: int) -> None:
    """Bit for bit as if they had been asked for: weights, momentum, statistics, average, dropout."""
    settings = {"head__name": "fcn", "head__dropout": 0.5, "train__ema_decay": 0.9}
    short, asked = updater(config(**settings)), updater(config(**settings, train__accumulate=parts))
    sizes = short_of(short, images, error, says)
    assert updated(short, 2) == updated(asked, 2)
    assert sizes == ([4] + [2] * 4 if parts == 2 else [4, 2] + [1] * 8)  # no step fails twice
    assert len(short.notes) == 1
    assert f"{parts} micro-batches of {images} a worker" in short.notes[0]
    groups = short.tensors()
    assert int(groups.pop("division")["micro_batches"]) == parts
    assert groups.keys() == asked.tensors().keys()
    for group, tensors in asked.tensors().items():
        assert not changed(dict(tensors), dict(groups[group])), group


def test_what_a_failed_attempt_has_added_to_the_gradients_is_gone() -> None:
    """Memory suffices for the first of two micro-batches, and not for the second."""
    short, asked = (updater(config(train__accumulate=parts)) for parts in (2, 4))
    seen: list[int] = []

    def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(len(given[0][0]))
        if seen == [2, 2]:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    short.parts.model.head.register_forward_pre_hook(hook)
    assert updated(short, 1) == updated(asked, 1)
    assert seen == [2, 2, 1, 1, 1, 1]
    assert not changed(weights(short), weights(asked))


@pytest.mark.parametrize(("error", "says"), [(torch.OutOfMemoryError, "CUDA out of memory."), (RuntimeError, CPU)])
def test_a_sample_that_does_not_fit_is_out_of_memory(error: type[Exception], says: str) -> None:
    of = updater(config())
    sizes = short_of(of, 0, error, says)
    with pytest.raises(torch.OutOfMemoryError):
        updated(of, 1)
    assert sizes == [4, 2, 1]


def test_what_is_wrong_otherwise_is_not_tried_again() -> None:
    of = updater(config())
    sizes = short_of(of, 0, RuntimeError, "The size of tensor a must match")
    with pytest.raises(RuntimeError, match="must match"):
        updated(of, 1)
    assert sizes == [4]


def test_the_allocators_own_word_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert shortage.is_shortage(caught.value)
    assert not shortage.is_shortage(RuntimeError("shape '[2]' is invalid"))


def test_the_failed_attempts_memory_is_free_before_the_next() -> None:
    """What an error's frames hold would stand in the way of the attempt that is to need less."""
    import gc
    import weakref

    held: list[Any] = []

    def attempt(parts: int) -> None:
        assert [ref() for ref in held] == [None] * len(held)
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        if parts < 8:
            raise torch.OutOfMemoryError(f"at {parts}")

    gc.disable()
    try:
        assert shortage.smallest(attempt, 1, 8) == (8, "at 4")
    finally:
        gc.enable()


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train__accumulate": 3}, "does not divide"),
        ({"train__accumulate": 4, "train__workers": 2}, "does not divide"),
        ({"optim__warmup_steps": 8}, "it never ends"),
        ({"train__ema_decay": 1.0}, "ema_decay"),
        ({"train__clip_norm": 0.0}, "clip_norm"),
        ({"train__freeze_backbone": 5}, "freeze_backbone"),
    ],
)
def test_settings_that_do_not_hold_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        config(**settings)


def test_a_compiler_that_fails_is_one_line() -> None:
    failed = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    says = "No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1"
    for compiled, error, kind in ((True, failed, UsageError), (False, failed, failed), (True, ValueError, ValueError)):
        with pytest.raises(kind, match=r"No working C\+\+ compiler found") as caught:
            _failing(config(train__compile=compiled).train, error(says))
        assert (kind is UsageError) is ("VERBOSE" not in str(caught.value))


def _failing(train: TrainConfig, error: Exception) -> None:
    with compiler_faults(train):
        raise error


def test_each_micro_batch_draws_numbers_of_its_own() -> None:
    drawn = []
    for words in ((0, 1, 0), (0, 1, 0, 0), (0, 1, 0, 1), (0, 1, 0, 2), (0, 1, 1), (0, 2, 0)):
        seed_step(*words)
        drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 5


@pytest.mark.slow
def test_the_compiled_model_trains_as_the_eager_one() -> None:
    eager, compiled = (updater(config(**DROPLESS, train__compile=wanted)) for wanted in (False, True))
    one, two = updated(eager, 3), updated(compiled, 3)
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3)
    assert type(compiled.parts.net) is not type(compiled.parts.model)
    assert weights(eager).keys() == weights(compiled).keys()
    assert fingerprint(eager.parts.model) == fingerprint(compiled.parts.model)
    assert configs.digest(eager.config) == configs.digest(compiled.config)
