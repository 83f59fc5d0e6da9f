import functools

import pytest
import torch

from seqexport.plugins.ops import OPS
from tests.ops.conformance import check_op, run_float64, run_reference

OP = OPS["RmsNorm"]


def make(batch=2, length=3, D=24, dtype=torch.float32, without=("z",), wide=0, scale=1.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    stream = torch.float32 if wide else dtype
    values = {
        "x": (torch.randn(batch, length, D, generator=g) * scale).to(dtype),
        "weight": torch.randn(D, generator=g).to(dtype),
        "residual": (torch.randn(batch, length, D, generator=g) * scale).to(stream),
        "z": torch.randn(batch, length, D, generator=g).to(dtype),
    }
    return {k: None if k in without else v for k, v in values.items()}


check = functools.partial(check_op, OP)


@pytest.mark.parametrize("D", [1, 7, 64, 768, 2049])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wide", [0, 1])
def test_sizes(D, dtype, wide):
    check(make(D=D, dtype=dtype, wide=wide), dtype, wide=wide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wide", [0, 1])
def test_without_a_residual_the_sum_is_x(dtype, wide):
    values = make(dtype=dtype, without=("residual", "z"))
    check(values, dtype, wide=wide)
    _, total = run_reference(OP, values, {"wide": wide})
    assert total.dtype == (torch.float32 if wide else dtype)
    assert torch.equal(total, values["x"].to(total.dtype))
    assert total.data_ptr() != values["x"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("norm_before_gate", [0, 1])
@pytest.mark.parametrize(("D", "groups"), [(24, 1), (24, 3), (7, 7), (768, 8)])
@pytest.mark.parametrize("without", [(), ("residual",)], ids=str)
def test_gates_and_groups(D, groups, norm_before_gate, without, dtype):
    check(make(D=D, dtype=dtype, without=without), dtype, groups=groups, norm_before_gate=norm_before_gate)


def test_groups_without_a_gate():
    check(make(D=60), groups=4)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 0.1])
def test_epsilon(epsilon):
    check(make(scale=1e-3), epsilon=epsilon)


def test_it_is_transformers_norm_of_the_sum():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    values = make(dtype=torch.float64)
    norm = LlamaRMSNorm(24, eps=1e-5).double()
    norm.weight.data = values["weight"]
    y, total = run_float64(OP, values, {"epsilon": 1e-5})
    torch.testing.assert_close(total, values["x"] + values["residual"])
    torch.testing.assert_close(y, norm(total), rtol=1e-6, atol=1e-6)  # it computes in float32 whatever it is given


def test_it_is_the_gated_norm_of_mamba2_layers():
    from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated  # 5.17's Mamba-2 has no groups

    values = make(dtype=torch.float64, without=("residual",))
    norm = Zamba2RMSNormGated(24, group_size=8, eps=1e-5).double()
    norm.weight.data = values["weight"]
    y, _ = run_float64(OP, values, {"epsilon": 1e-5, "groups": 3})
    torch.testing.assert_close(y, norm(values["x"], values["z"]), rtol=1e-6, atol=1e-6)


def test_it_is_falcon_h1s_norm_before_its_gate():
    from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1RMSNormGated

    values = make(dtype=torch.float64, without=("residual",))
    norm = FalconH1RMSNormGated(24, eps=1e-5, n_groups=2, norm_before_gate=True).double()
    norm.weight.data = values["weight"]
    y, _ = run_float64(OP, values, {"epsilon": 1e-5, "groups": 2, "norm_before_gate": 1})
    torch.testing.assert_close(y, norm(values["x"], values["z"]), rtol=1e-6, atol=1e-6)
