"""Settings of torch that belong to the whole process: set for one product on CUDA, and back whatever happens."""

import threading
from typing import Any

import pytest
import torch

from cvxsae.solvers.codes.engines import products
from cvxsae.solvers.codes.engines.products import float32_is_shortened, product
from cvxsae.solvers.codes.engines.screening import PreparedDictionary

MATMUL = torch.backends.cuda.matmul
BACKENDS: Any = torch.backends


class OnCuda(torch.Tensor):
    """A tensor that says that it lies on a GPU; its products are those of the CPU."""

    device = property(lambda self: torch.device("cuda"))


def settings():
    """What CUDA's products would do now: their inputs, and their sums."""
    names = ["allow_bf16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction_split_k"]
    shortened = MATMUL.fp32_precision if hasattr(MATMUL, "fp32_precision") else MATMUL.allow_tf32
    return (shortened in ("tf32", True), *(getattr(MATMUL, name, True) for name in names))


@pytest.fixture
def rows():
    return torch.eye(3).as_subclass(OnCuda)


@pytest.fixture
def seen(monkeypatch):
    """The settings at each product."""
    found = []
    mm = torch.mm

    def watched(*args, **options):
        found.append(settings())
        return mm(*args, **options)

    monkeypatch.setattr(torch, "mm", watched)
    return found


@pytest.fixture(params=["highest", "high", "medium"])
def asked(request):
    """What the user has asked of float32 products."""
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("splits", [True, False])
def test_a_product_has_its_settings_and_leaves_none_behind(rows, seen, asked, splits):
    if not splits and not hasattr(MATMUL, "allow_bf16_reduced_precision_reduction_split_k"):
        pytest.skip("this torch has no such setting")
    allowed = (False, False) if not splits else True
    MATMUL.allow_bf16_reduced_precision_reduction = allowed
    before = settings()
    try:
        for precision in ("tf32", "bfloat16", "float32"):
            product(precision, rows, rows)
            assert settings() == before
            assert torch.get_float32_matmul_precision() == asked  # read through the interface that set it
    finally:
        MATMUL.allow_bf16_reduced_precision_reduction = True
    assert seen == [(True, *before[1:]), (before[0], False, splits), before]


@pytest.mark.skipif(not hasattr(MATMUL, "fp32_precision"), reason="this torch has no setting for all libraries")
def test_what_follows_a_setting_for_all_libraries_goes_on_following_it(rows):
    before = BACKENDS.fp32_precision, MATMUL.fp32_precision
    try:
        MATMUL.fp32_precision = "none"  # of its own
        BACKENDS.fp32_precision = "tf32"
        product("tf32", rows, rows)
        BACKENDS.fp32_precision = "ieee"
        assert MATMUL.fp32_precision == "ieee"
        assert not float32_is_shortened()
    finally:
        BACKENDS.fp32_precision, MATMUL.fp32_precision = before


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_product_that_fails_leaves_no_setting_behind(rows, monkeypatch, precision):
    def fails(*args, **options):
        raise torch.cuda.OutOfMemoryError("too large")

    before = settings()
    monkeypatch.setattr(torch, "mm", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        product(precision, rows, rows)
    assert settings() == before
    monkeypatch.undo()
    product("float32", rows, rows)  # nothing is held


@pytest.mark.parametrize("second", ["float32", "bfloat16", "tf32"])
def test_two_threads_do_not_see_each_others_settings(rows, monkeypatch, second):
    """The first is held up in the middle of its product, until the second has had time to begin its own."""
    mm, seen, begun, inside = torch.mm, {}, threading.Event(), threading.Event()

    def watched(*args, **options):
        name = threading.current_thread().name
        if name == "first":
            begun.set()
            inside.wait(0.3)  # in vain, unless the second may come in
        else:
            inside.set()
        seen[name] = settings()
        return mm(*args, **options)

    monkeypatch.setattr(torch, "mm", watched)
    before = settings()
    first = threading.Thread(target=product, args=("tf32", rows, rows), name="first")
    first.start()
    assert begun.wait(60)
    other = threading.Thread(target=product, args=(second, rows, rows), name="second")
    other.start()
    assert not float32_is_shortened()  # this waits too, or would see what the first has set
    first.join()
    other.join()
    assert seen["first"] == (True, *before[1:])
    assert seen["second"] == ((second == "tf32"), before[1] and second != "bfloat16", before[2])
    assert settings() == before


def test_products_on_a_cpu_wait_for_nobody(monkeypatch):
    monkeypatch.setattr(products, "_SETTINGS", None)
    rows = torch.eye(3)
    for precision in ("float32", "tf32"):
        assert torch.equal(product(precision, rows, rows), rows)


def test_inputs_that_are_shortened_without_a_setting_are_noticed(monkeypatch):
    """By a library that has limits of its own: the error bound of a dictionary then allows for them."""
    mm, atoms = torch.mm, torch.eye(3, dtype=torch.float64)
    exact = PreparedDictionary(atoms).single_precision.accumulation

    def shortens(a, b, out=None):
        return mm(a.to(torch.bfloat16).to(torch.float32), b, out=out)

    products._keeps_all_digits.cache_clear()
    try:
        assert not float32_is_shortened()
        products._keeps_all_digits.cache_clear()
        monkeypatch.setattr(torch, "mm", shortens)
        assert float32_is_shortened()
        monkeypatch.setattr(torch, "mm", lambda a, b, out=None: shortens(b.T, a.T, out=out).T)
        products._keeps_all_digits.cache_clear()
        assert float32_is_shortened()
        assert PreparedDictionary(atoms).single_precision.accumulation > exact + 2**-7
    finally:
        products._keeps_all_digits.cache_clear()
