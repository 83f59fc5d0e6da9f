"""Every op at the ends of its dtype: what PyTorch makes of them, on every backend. One list, and one way to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from seqexport.plugins.ops import OPS, Op
from tests.ops.conformance import UNIT_ROUNDOFF, Values

Run = Callable[[Op, Values, Mapping[str, object]], Sequence[Tensor]]
Case = tuple[Op, Values, dict[str, object]]

LARGEST = {torch.float32: 2.0e38, torch.float16: 65504.0, torch.bfloat16: 2.0e38}
"""Scores as large as these still are float32 in units of log2(e), in which attention counts them."""

SMALLEST = {torch.float32: 1e-45, torch.float16: 6e-8, torch.bfloat16: 1e-40}
"""A subnormal of each dtype."""

ABSOLUTE = 2e-6
"""What ONNX Runtime's Sigmoid and Tanh, which the function bodies use, may be off: they end at 18 and 9."""


def points(dtype: torch.dtype) -> Tensor:
    """[354]: zeros, subnormals, where exp leaves float32, the largest numbers, infinities, NaN, and NaN of all bits."""
    positive = [0.0, SMALLEST[dtype], 0.25, 0.5, 1.0, 9.0, 17.0, 18.5, 30.0, 1e4, LARGEST[dtype], float("inf")]
    dense = torch.arange(80, 121, 0.25).tolist()
    ends = torch.tensor([*positive, *dense])
    all_bits = torch.full((1,), -1, dtype=torch.int32 if dtype == torch.float32 else torch.int16).view(dtype)
    return torch.cat([torch.cat([ends, -ends, torch.tensor([float("nan")])]).to(dtype), all_bits])


def channels(dtype: torch.dtype) -> Tensor:
    """[1062]: the points, often enough for kernels that want to fill a device."""
    return points(dtype).repeat(3)


def conv(dtype: torch.dtype, length: int) -> Case:
    """silu of every point, at every token; the taps before the last are 0 and see what is finite alone."""
    x = points(dtype)
    weight = torch.zeros(len(x), 2, dtype=dtype)
    weight[:, 1] = 1
    values: Values = {
        "x": torch.zeros(2, length, len(x), dtype=dtype),
        "weight": weight,
        "bias": None,
        "past": torch.zeros(2, len(x), 1, dtype=dtype),
        "seq_lens": None,
    }
    values["x"][:, -1] = x  # type: ignore[index]
    return OPS["CausalConv1d"], values, {"activation": "silu"}


def _scan(dtype: torch.dtype, length: int, **given: Tensor | None) -> Case:
    D, N = len(channels(dtype)), 16
    ones = torch.ones(2, length, D, dtype=dtype)
    values: Values = {
        "x": ones,
        "dt": torch.full_like(ones, 0.5),
        "A": torch.full((D, N), -0.5),
        "B": torch.ones(2, length, 1, N, dtype=dtype),
        "C": torch.full((2, length, 1, N), 2.0**-5, dtype=dtype),
        "D": None,
        "z": None,
        "dt_bias": None,
        "past": torch.ones(2, D, N),
        "seq_lens": None,
    }
    return OPS["SelectiveScan"], values | given, {"dt_softplus": 1}


def _at_the_end(dtype: torch.dtype, length: int, fill: float) -> Tensor:
    """[2,L,D] of ``fill``, with the points at the last token."""
    whole = torch.full((2, length, len(channels(dtype))), fill, dtype=dtype)
    whole[:, -1] = channels(dtype)
    return whole


def scan_gate(dtype: torch.dtype, length: int) -> Case:
    return _scan(dtype, length, z=_at_the_end(dtype, length, 1.0))


def scan_step(dtype: torch.dtype, length: int) -> Case:
    """softplus of every point, and the state after a step of such a size."""
    return _scan(dtype, length, dt=_at_the_end(dtype, length, 0.5))


def scan_decay(dtype: torch.dtype, length: int) -> Case:
    """Decays of every rate, from none to all at once."""
    rates = -channels(torch.float32).abs()
    return _scan(dtype, length, A=rates[:, None].repeat(1, 16))


def scan_input(dtype: torch.dtype, length: int) -> Case:
    return _scan(dtype, length, x=_at_the_end(dtype, length, 1.0), D=torch.ones(len(channels(dtype))))


def _ssd(dtype: torch.dtype, length: int, heads: int, P: int, **given: Tensor | None) -> Case:
    """Only the first token and the last enter the state, whose sums are so of few numbers."""
    x = torch.zeros(2, length, heads, P, dtype=dtype)
    x[:, 0] = x[:, -1] = 1
    values: Values = {
        "x": x,
        "dt": torch.full((2, length, heads), 0.5, dtype=dtype),
        "A": torch.full((heads,), -0.5),
        "B": torch.ones(2, length, 1, 16, dtype=dtype),
        "C": torch.full((2, length, 1, 16), 2.0**-5, dtype=dtype),
        "D": None,
        "z": None,
        "dt_bias": None,
        "past": torch.ones(2, heads, P, 16),
        "seq_lens": None,
    }
    return OPS["SsdScan"], values | given, {"dt_softplus": 1}


def _ended(whole: Tensor, last: Tensor) -> Tensor:
    whole[:, -1] = last
    return whole


def ssd_input(dtype: torch.dtype, length: int) -> Case:
    """Each point is a channel, of heads of 3; no token before the last, and no other channel, sees it."""
    x = channels(dtype).unflatten(0, (-1, 3))
    heads = len(x)
    return _ssd(dtype, length, heads, 3, x=_ended(torch.ones(2, length, heads, 3, dtype=dtype), x), D=torch.ones(heads))


def ssd_gate(dtype: torch.dtype, length: int) -> Case:
    z = channels(dtype).unflatten(0, (-1, 3))
    return _ssd(dtype, length, len(z), 3, z=_ended(torch.ones(2, length, len(z), 3, dtype=dtype), z))


def ssd_step(dtype: torch.dtype, length: int) -> Case:
    x = points(dtype)
    return _ssd(dtype, length, len(x), 2, dt=_ended(torch.full((2, length, len(x)), 0.5, dtype=dtype), x))


def ssd_early_step(dtype: torch.dtype, length: int) -> Case:
    """A step of each size at the first token, after which all decays are small beside its own."""
    x = points(dtype)
    dt = torch.full((2, length, len(x)), -6.0, dtype=dtype)
    dt[:, 0] = x
    return _ssd(dtype, length, len(x), 2, dt=dt)


def ssd_decay(dtype: torch.dtype, length: int) -> Case:
    rates = -points(torch.float32).abs()
    return _ssd(dtype, length, len(rates), 2, A=rates, seq_lens=torch.tensor([length, 1], dtype=torch.int32))


def ssd_ten_thousands(dtype: torch.dtype, length: int) -> Case:
    """Of B and C, and x so small that float16 holds y."""
    large = {name: torch.full((2, length, 1, 16), 1e4, dtype=dtype) for name in ("B", "C")}
    x = torch.full((2, length, 5, 7), 2.0**-18, dtype=dtype)
    return _ssd(dtype, length, 5, 7, x=x, past=torch.zeros(2, 5, 7, 16), **large)


def attention(dtype: torch.dtype, length: int, softcap: float = 0.0) -> Case:
    """Each point is a head's query; keys of 1 and -1 give it scores of its own size, values tell the keys apart."""
    x, length = points(dtype), min(length, 100)
    heads, dim, S = len(x), 8, length + 8
    query = torch.zeros(1, length, heads, dim, dtype=dtype)
    query[..., 0] = x
    key = torch.zeros(1, length, 1, dim, dtype=dtype)
    key[:, :, 0, 0] = 1 - 2.0 * (torch.arange(length) % 2)
    past_key = torch.zeros(1, 1, S, dim, dtype=dtype)
    past_key[0, 0, :3, 0] = torch.tensor([0.5, -1.0, 1.0])
    g = torch.Generator().manual_seed(0)
    values: Values = {
        "query": query,
        "key": key,
        "value": torch.randn(1, length, 1, dim, generator=g).to(dtype),
        "past_key": past_key,
        "past_value": torch.randn(1, 1, S, dim, generator=g).to(dtype),
        "past_lens": torch.tensor([3], dtype=torch.int32),
        "seq_lens": None,
    }
    return OPS["CausalAttention"], values, {"scale": 1.0, "softcap": softcap}


def attention_softcap(dtype: torch.dtype, length: int) -> Case:
    return attention(dtype, length, softcap=50.0)


def attention_ten_thousands(dtype: torch.dtype, length: int) -> Case:
    """Scores beyond 2^29, of which a rounding is larger than float16 holds of exp2; the first key's is the largest."""
    op, _, attributes = attention(dtype, length)
    g = torch.Generator().manual_seed(1)

    def signs(*shape: int) -> Tensor:
        return (1e4 * (1 - 2 * torch.randint(0, 2, shape, generator=g))).to(dtype)

    past_key = signs(1, 2, length + 8, 64)
    values: Values = {
        "query": past_key[:, :, :1].transpose(1, 2).repeat_interleave(4, dim=2).repeat(1, length, 1, 1),
        "key": signs(1, length, 2, 64),
        "value": torch.randn(1, length, 2, 64, generator=g).to(dtype),
        "past_key": past_key,
        "past_value": torch.randn(1, 2, length + 8, 64, generator=g).to(dtype),
        "past_lens": torch.tensor([3], dtype=torch.int32),
        "seq_lens": None,
    }
    return op, values, {**attributes, "scale": 0.125}


def norm(dtype: torch.dtype, length: int) -> Case:
    """A row of each size."""
    x = points(dtype)[:, None] * torch.linspace(0.25, 1.0, 33).to(dtype)
    values: Values = {"x": x[None], "weight": torch.linspace(-1.0, 2.0, 33).to(dtype), "residual": None}
    return OPS["RmsNorm"], values | {"z": None}, {"epsilon": 1e-6}


def norm_gate(dtype: torch.dtype, length: int) -> Case:
    """A gate of each size."""
    z = points(dtype)[:, None].expand(-1, 33).contiguous()
    x = torch.linspace(-2.0, 2.0, 33).to(dtype).expand_as(z).contiguous()
    values: Values = {"x": x[None], "weight": torch.ones(33, dtype=dtype), "residual": None, "z": z[None]}
    return OPS["RmsNorm"], values, {"norm_before_gate": 1}


def rotary(dtype: torch.dtype, length: int) -> Case:
    x = points(dtype)
    heads = x[None, :, None, None].expand(1, len(x), 1, 8).contiguous()
    angles = torch.linspace(0.1, 1.5, 8).expand(1, len(x), 8)
    values: Values = {"query": heads, "key": heads, "cos": angles.cos().to(dtype), "sin": angles.sin().to(dtype)}
    return OPS["RotaryQueryKey"], values, {}


def linear(dtype: torch.dtype, length: int) -> Case:
    """A token of each size, by a weight that picks its first feature out."""
    x = torch.zeros(1, len(points(dtype)), 8, dtype=dtype)
    x[0, :, 0] = points(dtype)
    weight = torch.zeros(8, 8, dtype=dtype)
    weight[0, 0], weight[1, 0] = 1, -0.5
    values: Values = {"x": x, "weight": weight, **dict.fromkeys(("bias", "weight1", "bias1", "weight2", "bias2"))}
    return OPS["Linear"], values, {}


def experts(dtype: torch.dtype, length: int) -> tuple[Op, Values, dict[str, object]]:
    """A token of each size, whose gate is the token's first channel; the up is 1. Expert 1, NaN, is nobody's."""
    tokens = points(dtype)[:: 1 if length > 1 else 45]
    x = torch.zeros(1, len(tokens), 8, dtype=dtype)
    x[0, :, 0] = tokens
    gate_up = torch.full((2, 16, 8), torch.nan, dtype=dtype)
    down, bias = torch.full((2, 8, 8), torch.nan, dtype=dtype), torch.zeros(2, 16, dtype=dtype)
    gate_up[0], down[0] = 0, 0
    gate_up[0, :8, 0], bias[:, 8:] = 1, 1
    down[0, 0, 0], down[0, 1, 1] = 1, -0.5
    values: Values = {
        "x": x,
        "chosen": torch.zeros(1, len(tokens), 1, dtype=torch.int32),
        "weight": torch.ones(1, len(tokens), 1),
        "gate_up": gate_up,
        "down": down,
        "gate_up_bias": bias,
        "down_bias": None,
    }
    return OPS["Experts"], values, {"gated": 1, "activation": "silu"}


CASES = {
    case.__name__: case
    for case in (
        conv, scan_gate, scan_step, scan_decay, scan_input, attention, attention_softcap, attention_ten_thousands, norm,
        norm_gate, rotary, linear, ssd_input, ssd_gate, ssd_step, ssd_early_step, ssd_decay, ssd_ten_thousands,
        experts,
    )
}  # fmt: skip
LENGTHS = (1, 3, 300)
"""A step, a short prompt, and one that kernels split over threads."""


def check(run: Run, name: str, dtype: torch.dtype, length: int) -> None:
    """What the reference makes of the case in this dtype: not finite where it is not, else its numbers."""
    op, values, attributes = CASES[name](dtype, length)
    ours, theirs = run(op, values, attributes), op.reference(**values, **attributes)
    wide = {k: v.double() if v is not None and v.is_floating_point() else v for k, v in values.items()}
    of_sums = 1.0 if op.name == "CausalAttention" else 0.0
    for index, (a, b, c) in enumerate(zip(ours, theirs, op.reference(**wide, **attributes), strict=True)):
        _compare(a.float(), b.float(), c, UNIT_ROUNDOFF[dtype], of_sums, f"{name}, output {index}")


def _compare(ours: Tensor, theirs: Tensor, true: Tensor, roundoff: float, of_sums: float, what: str) -> None:
    """Element by element, at most twice PyTorch's own error, that taken as at least four roundings of the element.

    An infinity may be NaN: kernels multiply it with the zeros that fill a tile.

    Args:
        of_sums: the least size that an element is taken to have, where it is a sum that may cancel.
    """
    finite = torch.isfinite(theirs)
    wrong = finite != torch.isfinite(ours)
    where = wrong.nonzero()[:5].tolist()
    assert not wrong.any(), f"{what}: {ours[wrong][:5].tolist()} at {where}, PyTorch {theirs[wrong][:5].tolist()}"
    turned = torch.isinf(ours) & (ours != theirs)
    assert not turned.any(), f"{what}: {ours[turned][:5].tolist()}, PyTorch {theirs[turned][:5].tolist()}"
    error, own = (ours.double() - true).abs()[finite], (theirs.double() - true).abs()[finite]
    size = true.abs()[finite].clamp(min=of_sums)
    allowed = 2 * torch.maximum(own, 4 * roundoff * size) + ABSOLUTE
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), f"{what}: {error[worst]:.3g}, allowed {allowed[worst]:.3g} at {size[worst]:.3g}"
