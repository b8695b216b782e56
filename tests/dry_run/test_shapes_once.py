"""Shapes remembered for a dry run are those that torch works out; what must not be remembered is not."""

import pytest

from tests import needs

torch = needs.Late("torch")
pytestmark = [needs.TORCH, needs.IN_PROCESS]


@pytest.fixture
def shapes():
    from hydra_overlap.dry_run.shapes_once import ShapesOnce

    return ShapesOnce()


def meta(*size, dtype=None):
    return torch.empty(size, dtype=dtype or torch.bfloat16, device="meta")


def layer(hidden):
    """Of a transformer layer, what its operations are like: products, norms, views, dropout, a softmax, a sum in place."""
    weight = meta(24, 8).requires_grad_()
    heads = (torch.rms_norm(hidden, (8,)) @ weight.t()).view(4, 2, 3, 8).transpose(0, 1)
    scores = torch.softmax(heads.float() @ heads.float().transpose(-1, -2), dim=-1)
    mixed = (scores.to(heads.dtype) @ heads).transpose(0, 1).reshape(4, 2, 24)
    return torch.nn.functional.dropout(mixed, 0.1).add_(mixed) @ weight


def test_a_layer_has_the_same_shapes_forward_and_backward_as_without(shapes):
    outcomes = []
    for entered in (None, shapes, shapes):
        hidden = meta(4, 2, 8).requires_grad_()
        with entered or torch.enable_grad():
            output = layer(hidden)
            output.sum().backward()
        outcomes.append([(one.shape, one.stride(), one.dtype) for one in (output, hidden.grad)])
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_an_equal_question_is_asked_once_and_answered_with_new_tensors(shapes):
    with shapes:
        first, again, other = meta(3, 4) + meta(4), meta(3, 4) + meta(4), meta(3, 4) + meta(3, 1)
    (answers,) = [found for function, found in shapes._answers.items() if function is torch.ops.aten.add.Tensor]
    assert len(answers) == 2
    assert first is not again
    assert first.shape == again.shape == other.shape


def test_a_type_of_number_that_decides_the_result_is_part_of_the_question(shapes):
    with shapes:
        kinds = [(meta(2, dtype=torch.int64) + number).dtype for number in (1, 1.0, True, 1)]
    assert kinds == [torch.int64, torch.float32, torch.int64, torch.int64]


def test_what_is_written_in_place_stays_itself_and_a_view_shares_its_memory(shapes):
    one = meta(6)
    with shapes:
        for _ in range(2):
            assert one.mul_(2) is one
            assert one.view(2, 3).untyped_storage()._cdata == one.untyped_storage()._cdata


def test_tensors_with_values_are_computed(shapes):
    with shapes:
        for number in (1, 2):
            assert (torch.tensor([number]) + 1).tolist() == [number + 1]
            assert torch.empty_like(meta(2), device="cpu").fill_(number).tolist() == [number, number]
