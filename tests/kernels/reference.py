"""References for the kernels: each op token by token in the dtype given, and the bound that results are held to."""

import torch

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
DEVICE = "cuda"
NAN = float("nan")
FEW = 100


def randn(*shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape, device=DEVICE) * scale).to(dtype)


def poisoned(*shape, dtype):
    return torch.full(shape, NAN, device=DEVICE, dtype=dtype)


def lens_mask(lens, length):
    return torch.arange(length, device=DEVICE)[None] < lens[:, None]


def poison_padding(tensor, lens):
    """NaN in every token at or past the row's length."""
    if tensor is not None and lens is not None:
        tensor[~lens_mask(lens, tensor.shape[1])] = NAN
    return tensor


def error(result, true):
    result, true = result.double(), true.double()
    scale = true.norm().clamp_min(1e-30)
    return ((result - true).norm() / scale).item(), (
        (result - true).abs().max() / true.abs().max().clamp_min(1e-30)
    ).item()


def assert_near(name, ours, torch_result, true, factor=2.0, dtype=None):
    """Our error against the float64 reference: at most `factor` times PyTorch's own, or one rounding, and float32's
    epsilon. `dtype`: in which products were computed, where the result has another. The largest error of a few
    numbers is chance, and not looked at."""
    assert torch.isfinite(ours).all(), f"{name}: {(~torch.isfinite(ours)).sum().item()} of {ours.numel()} not finite"
    rounding = torch.finfo(dtype or torch_result.dtype).eps / 2
    kinds = ("norm", "max") if ours.numel() >= FEW else ("norm",)
    for kind, mine, theirs in zip(kinds, error(ours, true), error(torch_result, true), strict=False):
        bound = max(factor * theirs, rounding) + torch.finfo(torch.float32).eps
        assert mine <= bound, f"{name}: {kind} error {mine:.3e}, PyTorch's own {theirs:.3e}, bound {bound:.3e}"


def conv_reference(x, weight, bias, past, lens, activation, dtype):
    batch, length, _ = x.shape
    taps = weight.shape[1]
    x = x.to(dtype)
    if lens is not None:
        x = x.masked_fill(~lens_mask(lens, length)[..., None], 0)
    xx = torch.cat([past.to(dtype).transpose(1, 2), x], 1)
    y = sum(xx[:, j : j + length] * weight.to(dtype)[:, j] for j in range(taps))
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = torch.nn.functional.silu(y)
    ends = torch.full((batch,), length, device=DEVICE) if lens is None else lens.long()
    rows = ends[:, None] + torch.arange(taps - 1, device=DEVICE)
    present = torch.gather(xx, 1, rows[..., None].expand(-1, -1, xx.shape[2])).transpose(1, 2)
    if lens is not None:
        y = y.masked_fill(~lens_mask(lens, length)[..., None], 0)
    return y, present


def cleaned(tensor, valid, dtype):
    """With 0 for padded tokens."""
    return tensor.to(dtype).masked_fill(~valid.view(*valid.shape, *(1,) * (tensor.dim() - 2)), 0)


def step(dt, dt_bias, dt_softplus):
    delta = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    return torch.nn.functional.softplus(delta) if dt_softplus else delta


def backwards(tensor, valid):
    """[B,L,...] with the valid tokens of each row in the other order."""
    ends, t = valid.sum(1, keepdim=True), torch.arange(tensor.shape[1], device=DEVICE)
    order = torch.where(t < ends, ends - 1 - t, t)
    return tensor.gather(1, order.view(*order.shape, *(1,) * (tensor.dim() - 2)).expand_as(tensor))


def scan_reference(x, dt, A, B, C, D, z, dt_bias, past, lens, dt_softplus, dtype, back=0):
    """The last ``back`` groups by a scan of turned tokens."""
    batch, length, channels = x.shape
    group = torch.arange(channels, device=DEVICE) * B.shape[2] // channels
    valid = torch.ones(batch, length, dtype=torch.bool, device=DEVICE) if lens is None else lens_mask(lens, length)
    if back:
        turned = [None if each is None else backwards(each, valid) for each in (x, dt, B, C, z)]
        there = scan_reference(x, dt, A, B, C, D, z, dt_bias, past, lens, dt_softplus, dtype)
        again = scan_reference(*turned[:2], A, *turned[2:4], D, turned[4], dt_bias, past, lens, dt_softplus, dtype)
        is_back = group >= B.shape[2] - back
        y = torch.where(is_back, backwards(again[0], valid), there[0])
        return y, torch.where(is_back[:, None], again[1], there[1])
    x, dt, B, C, z = (None if each is None else cleaned(each, valid, dtype) for each in (x, dt, B, C, z))
    delta = step(dt, dt_bias, dt_softplus)
    delta = delta.masked_fill(~valid[..., None], 0)
    h, A, ys = past.to(dtype), A.to(dtype), []
    for t in range(length):
        Bt, Ct = B[:, t, group], C[:, t, group]
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * Bt
        ys.append((h * Ct).sum(-1))
    y = torch.stack(ys, 1)
    if D is not None:
        y = y + D.to(dtype) * x
    if z is not None:
        y = y * torch.nn.functional.silu(z)
    return y.masked_fill(~valid[..., None], 0), h


SIGNIFICANT_BITS = {torch.float16: 11, torch.bfloat16: 8}


def rounded(tensor, like):
    """Rounded to the significant bits of a 16-bit type, whose range does not end it; None leaves it."""
    if like is None:
        return tensor
    mantissa, exponent = torch.frexp(tensor)
    scale = 2.0 ** SIGNIFICANT_BITS[like]
    return torch.ldexp(torch.round(mantissa * scale) / scale, exponent)


def ssd_reference(x, dt, A, B, C, D, z, dt_bias, past, lens, dt_softplus, limits, dtype, operands=None):
    """With ``operands``, those of the products with B and C are of this type, as in Mamba-2's own kernels."""
    batch, length, heads, _ = x.shape
    group = torch.arange(heads, device=DEVICE) * B.shape[2] // heads
    valid = torch.ones(batch, length, dtype=torch.bool, device=DEVICE) if lens is None else lens_mask(lens, length)
    x, dt, B, C, z = (None if each is None else cleaned(each, valid, dtype) for each in (x, dt, B, C, z))
    delta = step(dt, dt_bias, dt_softplus)
    least, most = limits
    delta = delta.clamp(least or None, most or None) if least or most else delta
    delta = delta.masked_fill(~valid[..., None], 0)
    dx = rounded(delta[..., None] * x, operands)
    decay, h, ys = torch.exp(delta * A.to(dtype)), past.to(dtype), []
    for t in range(length):
        h = decay[:, t, :, None, None] * h + dx[:, t, ..., None] * B[:, t, group, None]
        ys.append((rounded(h, operands) * C[:, t, group, None]).sum(-1))
    y = torch.stack(ys, 1)
    if D is not None:
        y = y + D.to(dtype)[:, None] * x
    if z is not None:
        y = y * torch.nn.functional.silu(z)
    return y.masked_fill(~valid[..., None, None], 0), h


def attention_reference(query, key, value, past_key, past_value, past_lens, lens, scale, window, softcap, dtype):
    """Row by row over the valid tokens, softmax in at least float32 as PyTorch's eager attention has it."""
    batch, length, heads, _ = query.shape
    group = heads // key.shape[2]
    y = torch.zeros(batch, length, heads, value.shape[3], device=DEVICE, dtype=dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for b in range(batch):
        n, past = (length if lens is None else int(lens[b])), int(past_lens[b])
        if n == 0:
            continue
        k = torch.cat([past_key[b, :, :past], key[b, :n].transpose(0, 1)], 1).to(dtype).repeat_interleave(group, 0)
        v = torch.cat([past_value[b, :, :past], value[b, :n].transpose(0, 1)], 1).to(dtype).repeat_interleave(group, 0)
        score = (query[b, :n].transpose(0, 1).to(dtype) @ k.transpose(1, 2)) * scale
        if softcap:
            score = softcap * torch.tanh(score / softcap)
        i = torch.arange(n, device=DEVICE)[:, None] + past
        j = torch.arange(past + n, device=DEVICE)[None]
        unseen = (j > i) | ((j <= i - window) if window else torch.zeros_like(j > i))
        prob = score.to(wide).masked_fill(unseen, float("-inf")).softmax(-1).to(dtype)
        y[b, :n] = (prob @ v).transpose(0, 1)
    return y
