"""16-bit matrix products on a CPU equal fp32 ones rounded once, to the last bit, in every form torch calls them."""

import pytest

from tests import needs

pytestmark = [needs.TORCH, needs.IN_PROCESS]
torch = needs.Late("torch")
SCALARS = [{}, {"beta": 0.5, "alpha": -2.0}, {"beta": 0, "alpha": 0.125}, {"beta": 2, "alpha": 1}]


@pytest.fixture(autouse=True, params=[True, False], ids=["get_kernel", "older torch"])
def hands_out_kernels(request, monkeypatch):
    """Our kernels while a test runs, as torch releases with and without torch.library.get_kernel have them."""
    from hydra_overlap.megatron import matmul

    if not request.param:
        monkeypatch.delattr(torch.library, "get_kernel")
    monkeypatch.setattr(matmul, "_library", None)
    matmul.install()
    yield request.param
    matmul._library._destroy()


@pytest.fixture(params=["bfloat16", "float16"])
def dtype(request):
    return getattr(torch, request.param)


# Calls that write into a tensor they are given keep torch's own kernel in older releases.
needs_get_kernel = pytest.mark.parametrize("hands_out_kernels", [True], indirect=True)


def drawn(*shape, dtype, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def transposed(*shape, dtype, seed=0):
    return drawn(*shape[:-2], shape[-1], shape[-2], dtype=dtype, seed=seed).transpose(-2, -1)


def cut_from_a_larger_one(*shape, dtype, seed=0):
    return drawn(*shape[:-1], 3 * shape[-1], dtype=dtype, seed=seed)[..., 1::3]


def repeated_row(*shape, dtype, seed=0):
    return drawn(*shape[:-2], 1, shape[-1], dtype=dtype, seed=seed).expand(*shape)


LAYOUTS = [drawn, transposed, cut_from_a_larger_one, repeated_row]


def same(found, expected):
    """Format, shape and every bit; NaN equals NaN."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def rounded(operator, *tensors, **scalars):
    return operator(*[tensor.float() for tensor in tensors], **scalars).to(tensors[0].dtype)


@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("right", LAYOUTS)
def test_products_are_multiplied_in_fp32_and_rounded_once(dtype, left, right):
    a, b = left(33, 70, dtype=dtype), right(70, 19, dtype=dtype, seed=1)
    same(torch.mm(a, b), rounded(torch.mm, a, b))
    batched_a, batched_b = left(3, 33, 70, dtype=dtype), right(3, 70, 19, dtype=dtype, seed=1)
    same(torch.bmm(batched_a, batched_b), rounded(torch.bmm, batched_a, batched_b))


@pytest.mark.parametrize("scalars", SCALARS, ids=str)
@pytest.mark.parametrize("summand", [(33, 19), (19,), (33, 1), ()], ids=str)
def test_a_summand_and_factors_are_part_of_what_is_rounded_once(dtype, scalars, summand):
    a, b = drawn(33, 70, dtype=dtype), transposed(70, 19, dtype=dtype, seed=1)
    c = drawn(*summand, dtype=dtype, seed=2)
    same(torch.addmm(c, a, b, **scalars), rounded(torch.addmm, c, a, b, **scalars))
    batches = a.expand(3, -1, -1), b.expand(3, -1, -1)
    same(torch.baddbmm(c, *batches, **scalars), rounded(torch.baddbmm, c, *batches, **scalars))


def test_rounding_once_is_not_what_rounding_every_partial_sum_gives(dtype):
    ones = torch.ones(1, 4096, dtype=dtype)
    small = torch.full((4096, 1), 2.0**-12, dtype=dtype)
    assert torch.mm(ones, small).item() == 1.0
    assert torch.addmm(torch.tensor([-1.0], dtype=dtype), ones, small).item() == 0.0


def test_a_summand_that_counts_for_nothing_is_not_read(dtype):
    a, b = drawn(4, 5, dtype=dtype), drawn(5, 6, dtype=dtype)
    nothing = torch.full((4, 6), float("nan"), dtype=dtype)
    same(torch.addmm(nothing, a, b, beta=0), torch.mm(a, b))
    batches = a.expand(2, -1, -1), b.expand(2, -1, -1)
    same(torch.baddbmm(nothing, *batches, beta=0), torch.bmm(*batches))


@pytest.mark.parametrize(("rows", "inner", "columns"), [(0, 5, 6), (4, 0, 6), (4, 5, 0), (0, 0, 0)])
def test_sizes_of_zero(dtype, rows, inner, columns):
    a, b, c = (torch.ones(shape, dtype=dtype) for shape in ((rows, inner), (inner, columns), (rows, columns)))
    same(torch.mm(a, b), torch.full((rows, columns), float(inner), dtype=dtype))
    same(torch.addmm(c, a, b, beta=3), torch.full((rows, columns), 3.0 + inner, dtype=dtype))
    batches = a.expand(2, -1, -1), b.expand(2, -1, -1)
    same(torch.bmm(*batches), torch.full((2, rows, columns), float(inner), dtype=dtype))
    same(torch.bmm(*(batch[:0] for batch in batches)), torch.empty(0, rows, columns, dtype=dtype))


@pytest.mark.parametrize("out", [(4, 6), (0,)], ids=str)
@needs_get_kernel
def test_results_are_written_into_a_tensor_that_is_given(dtype, out):
    a, b, c = drawn(4, 5, dtype=dtype), drawn(5, 6, dtype=dtype, seed=1), drawn(4, 6, dtype=dtype, seed=2)
    place = torch.empty(out, dtype=dtype)
    assert torch.mm(a, b, out=place) is place
    same(place, rounded(torch.mm, a, b))
    same(torch.addmm(c, a, b, alpha=3, out=torch.empty(out, dtype=dtype)), rounded(torch.addmm, c, a, b, alpha=3))
    batches = a.expand(2, -1, -1), b.expand(2, -1, -1)
    place = torch.empty((2, 6, 4), dtype=dtype).transpose(1, 2)
    torch.bmm(*batches, out=place)
    same(place, rounded(torch.bmm, *batches))
    assert place.stride() == (24, 1, 4)
    same(torch.baddbmm(c, *batches, out=place), rounded(torch.baddbmm, c, *batches))


@needs_get_kernel
def test_a_factor_may_be_what_the_result_is_written_into(dtype):
    a, b = drawn(6, 6, dtype=dtype), drawn(6, 6, dtype=dtype, seed=1)
    expected = rounded(torch.mm, a, b)
    same(torch.mm(a, b, out=a), expected)


@needs_get_kernel
def test_sums_in_place(dtype):
    a, b = drawn(4, 5, dtype=dtype), drawn(5, 6, dtype=dtype, seed=1)
    total = drawn(4, 6, dtype=dtype, seed=2)
    expected = rounded(torch.addmm, total, a, b, beta=0.5, alpha=-3)
    assert total.addmm_(a, b, beta=0.5, alpha=-3) is total
    same(total, expected)
    totals = drawn(2, 4, 6, dtype=dtype, seed=2)
    batches = a.expand(2, -1, -1), b.expand(2, -1, -1)
    expected = rounded(torch.baddbmm, totals, *batches)
    same(totals.baddbmm_(*batches), expected)
    with pytest.raises(RuntimeError, match=r"shape|size|dimension"):
        total[:1].addmm_(a, b)


@needs_get_kernel
def test_another_shape_is_torchs_to_warn_of():
    a, b = drawn(4, 5, dtype=torch.bfloat16), drawn(5, 6, dtype=torch.bfloat16)
    place = torch.empty(3, 3, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="was resized"):
        torch.mm(a, b, out=place)
    assert place.shape == (4, 6)


def test_gradients_of_what_layers_call_are_multiplied_in_fp32_too(dtype):
    x = drawn(2, 7, 40, dtype=dtype).requires_grad_()
    weight = drawn(24, 40, dtype=dtype, seed=1).requires_grad_()
    bias = drawn(24, dtype=dtype, seed=2).requires_grad_()
    gradient = drawn(2, 7, 24, dtype=dtype, seed=3)
    y = torch.nn.functional.linear(x, weight, bias)
    y.backward(gradient)
    rows, flat = x.detach().view(14, 40), gradient.view(14, 24)
    same(y.detach().view(14, 24), rounded(torch.addmm, bias.detach(), rows, weight.detach().t()))
    same(x.grad.view(14, 40), rounded(torch.mm, flat, weight.detach()))
    same(weight.grad, rounded(torch.mm, flat.t(), rows))
    same(bias.grad, flat.sum(0))


def test_gradients_of_attention_scores(dtype):
    q, k = (drawn(3, 8, 16, dtype=dtype, seed=seed).requires_grad_() for seed in (1, 2))
    gradient = drawn(3, 8, 8, dtype=dtype, seed=3)
    buffer = torch.full((3, 8, 8), float("nan"), dtype=dtype)
    scores = torch.baddbmm(buffer, q, k.transpose(1, 2), beta=0.0, alpha=0.25)
    scores.backward(gradient)
    same(scores.detach(), rounded(torch.baddbmm, buffer, q.detach(), k.detach().transpose(1, 2), beta=0.0, alpha=0.25))
    same(q.grad, rounded(torch.bmm, gradient, k.detach()) * 0.25)  # a power of two: exact
    same(k.grad, rounded(torch.bmm, gradient.transpose(1, 2), q.detach()) * 0.25)


def test_einsum_and_matmul_end_in_the_same_products(dtype):
    a, b = drawn(3, 4, 5, dtype=dtype), drawn(3, 5, 6, dtype=dtype, seed=1)
    same(torch.einsum("bij,bjk->bik", a, b), rounded(torch.bmm, a, b))
    same(a @ b, rounded(torch.bmm, a, b))
    same(a @ b[0], rounded(torch.mm, a.view(12, 5), b[0]).view(3, 4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.int64])
def test_other_number_formats_keep_torchs_kernels(dtype):
    a, b, c = (drawn(*shape, dtype=torch.float32).mul(10).to(dtype) for shape in ((33, 70), (70, 19), (33, 19)))
    batches = a.expand(2, -1, -1), b.expand(2, -1, -1)

    def products():
        return [
            torch.mm(a, b), torch.addmm(c, a, b, beta=2, alpha=3), torch.bmm(*batches), torch.baddbmm(c, *batches, alpha=2),
            torch.mm(a, b, out=c.clone()), c.clone().addmm_(a, b, alpha=2),
        ]  # fmt: skip

    from hydra_overlap.megatron import matmul

    ours = products()
    matmul._library._destroy()
    assert all(torch.equal(one, torchs) for one, torchs in zip(ours, products(), strict=True))


def test_mixtures_and_shapes_that_do_not_match_are_refused_as_before():
    a = drawn(4, 5, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="dtype"):
        torch.mm(a, drawn(5, 6, dtype=torch.float16))
    with pytest.raises(RuntimeError, match="dtype"):
        torch.addmm(drawn(6, dtype=torch.float32), a, drawn(5, 6, dtype=torch.bfloat16))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.mm(a, a)


def test_installing_twice_changes_nothing():
    from hydra_overlap.megatron import matmul

    library = matmul._library
    matmul.install()
    assert matmul._library is library


def test_other_devices_keep_their_kernels():
    a = torch.empty(4, 5, dtype=torch.bfloat16, device="meta")
    assert torch.mm(a, a.t()).is_meta
