"""A selective scan that trains fast: two Triton kernels, and the same in plain PyTorch.

Transformers' own Mamba walks the sequence in a Python loop when no compiled kernel is installed. For training
we compute the same recurrence here (Gu & Dao 2023, eq. 2), with h the state of shape [D, N]:

    h[t] = exp(dt[t] * A) * h[t-1] + dt[t] * x[t] * B[t]        y[t] = sum over N of C[t] * h[t]

    x, dt  [rows, L, D]      A  [D, N]      B, C  [rows, L, N]      y  [rows, L, D]

A program owns WIDTH channels of one row and takes the sequence in chunks of CHUNK tokens. Within a chunk the
recurrence is an associative scan over the pairs (decay, input); between chunks only h is carried. The forward
pass keeps h at the start of every chunk, so that the backward pass can walk the chunks from last to first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # a machine without a GPU needs none
    triton = None

CHUNK = 16
WIDTH = 16
WARPS = 8


def scan_torch(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan in log2(L) doubling steps (Hillis & Steele 1986); PyTorch differentiates it."""
    decay = torch.exp(dt[..., None] * A)
    state = (dt * x)[..., None] * B[:, :, None, :]
    step = 1
    while step < x.shape[1]:
        shift = (0, 0, 0, 0, step, 0)
        state = state + decay * F.pad(state[:, :-step], shift)
        decay = decay * F.pad(decay[:, :-step], shift, value=1.0)
        step *= 2
    return (state * C[:, :, None, :]).sum(-1)


if triton is not None:

    @triton.jit
    def _then(decay1, input1, decay2, input2):
        """Two steps of the recurrence as one."""
        return decay1 * decay2, decay2 * input1 + input2

    @triton.jit
    def _states(dt, u, b, a, h):
        """All states of a chunk, and the inputs they came from: [CHUNK, WIDTH, N] both."""
        inputs = u[:, :, None] * b[:, None, :]
        decay, state = tl.associative_scan((tl.exp(dt[:, :, None] * a[None, :, :]), inputs), 0, _then)
        return state + decay * h[None, :, :], inputs

    @triton.jit
    def _at(values, index, CHUNK: tl.constexpr):
        """values[index] of a [CHUNK, WIDTH, N] tensor."""
        rows = tl.arange(0, CHUNK)[:, None, None]
        return tl.sum(tl.where(rows == index, values, 0.0), 0)

    @triton.jit
    def _forward(x, dt, A, B, C, y, starts, L, D, N: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr):
        """y, and the state before every chunk: starts [rows, L / CHUNK, D, N]."""
        row = tl.program_id(0)
        d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        n = tl.arange(0, N)
        dn = d[:, None] * N + n[None, :]
        a = tl.load(A + dn)
        h = tl.zeros([WIDTH, N], tl.float32)
        for chunk in range(L // CHUNK):
            token = row * L + chunk * CHUNK + tl.arange(0, CHUNK)
            td = token[:, None] * D + d[None, :]
            tn = token[:, None] * N + n[None, :]
            tl.store(starts + (row * (L // CHUNK) + chunk) * D * N + dn, h)
            step = tl.load(dt + td)
            u = step * tl.load(x + td).to(tl.float32)
            states, _ = _states(step, u, tl.load(B + tn).to(tl.float32), a, h)
            c = tl.load(C + tn).to(tl.float32)
            tl.store(y + td, tl.sum(states * c[:, None, :], 2))
            h = _at(states, CHUNK - 1, CHUNK)

    @triton.jit
    def _backward(
        x, dt, A, B, C, starts, dy, dx, ddt, dA, dB, dC, rows, L, D,
        N: tl.constexpr, CHUNK: tl.constexpr, WIDTH: tl.constexpr,
    ):  # fmt: skip
        """All gradients; dA is per row [rows, D, N], dB and dC per channel group [D / WIDTH, rows, L, N]."""
        row = tl.program_id(0)
        group = tl.program_id(1)
        d = group * WIDTH + tl.arange(0, WIDTH)
        n = tl.arange(0, N)
        dn = d[:, None] * N + n[None, :]
        a = tl.load(A + dn)
        later = tl.zeros([WIDTH, N], tl.float32)  # dh of the first token after this chunk
        da = tl.zeros([WIDTH, N], tl.float32)
        for back in range(L // CHUNK):
            chunk = L // CHUNK - 1 - back
            t = chunk * CHUNK + tl.arange(0, CHUNK)
            token = row * L + t
            td = token[:, None] * D + d[None, :]
            tn = token[:, None] * N + n[None, :]
            step = tl.load(dt + td)
            xs = tl.load(x + td).to(tl.float32)
            b = tl.load(B + tn).to(tl.float32)
            c = tl.load(C + tn).to(tl.float32)
            grad = tl.load(dy + td).to(tl.float32)
            h = tl.load(starts + (row * (L // CHUNK) + chunk) * D * N + dn)
            states, inputs = _states(step, step * xs, b, a, h)
            # dh[t] = C[t] dy[t] + decay[t+1] dh[t+1]: the same scan, from the last token to the first
            next_step = tl.load(dt + td + D, mask=(t + 1 < L)[:, None], other=0.0)
            next_decay = tl.exp(next_step[:, :, None] * a[None, :, :])
            pairs = (next_decay, grad[:, :, None] * c[:, None, :])
            decay, dh = tl.associative_scan(pairs, 0, _then, reverse=True)
            dh += decay * later[None, :, :]
            later = _at(dh, 0, CHUNK)
            du = tl.sum(dh * b[:, None, :], 2)
            dlog = dh * (states - inputs)  # the gradient of dt * A: dh[t] * decay[t] * h[t-1]
            tl.store(dx + td, du * step)
            tl.store(ddt + td, du * xs + tl.sum(dlog * a[None, :, :], 2))
            da += tl.sum(dlog * step[:, :, None], 0)
            part = group * rows * L * N + tn
            tl.store(dB + part, tl.sum(dh * (step * xs)[:, :, None], 1))
            tl.store(dC + part, tl.sum(states * grad[:, :, None], 1))
        tl.store(dA + row * D * N + dn, da)


class TritonScan(torch.autograd.Function):
    """`scan_torch` as two kernels; dt and A are float32, the rest may be half precision."""

    @staticmethod
    def forward(ctx, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """Runs `_forward` and keeps what `_backward` reads."""
        x, dt, A, B, C = (tensor.contiguous() for tensor in (x, dt, A, B, C))
        rows, length, width = x.shape
        states = A.shape[1]
        y = torch.empty_like(dt)
        starts = dt.new_empty(rows, length // CHUNK, width, states)
        grid = (rows, width // WIDTH)
        _forward[grid](x, dt, A, B, C, y, starts, length, width, states, CHUNK, WIDTH, num_warps=WARPS)
        ctx.save_for_backward(x, dt, A, B, C, starts)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        """Runs `_backward` and adds up the parts; no atomics, so a run repeats exactly."""
        x, dt, A, B, C, starts = ctx.saved_tensors
        rows, length, width = x.shape
        states = A.shape[1]
        dx, ddt = torch.empty_like(dt), torch.empty_like(dt)
        dA = dt.new_empty(rows, width, states)
        dB, dC = dt.new_empty(2, width // WIDTH, rows, length, states)
        grid = (rows, width // WIDTH)
        _backward[grid](
            x, dt, A, B, C, starts, dy.contiguous(), dx, ddt, dA, dB, dC, rows, length, width,
            states, CHUNK, WIDTH, num_warps=WARPS,
        )  # fmt: skip
        return dx.to(x.dtype), ddt, dA.sum(0), dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype)


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """The scan by the fastest means at hand; float32 out."""
    fits = x.shape[1] % CHUNK == 0 and x.shape[2] % WIDTH == 0
    if x.is_cuda and triton is not None and fits:
        return TritonScan.apply(x, dt, A, B, C)
    return scan_torch(x.float(), dt, A, B.float(), C.float())


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel's weighted sum of its last K tokens, then SiLU: x [rows, L, D], weight [D, 1, K]."""
    taps = weight.shape[-1]
    padded = F.pad(x, (0, 0, taps - 1, 0))
    length = x.shape[1]
    total = sum(padded[:, tap : tap + length] * weight[:, 0, tap] for tap in range(taps))
    return F.silu(total + bias)


def mamba_mixer(mixer: torch.nn.Module, hidden: Tensor) -> Tensor:
    """What transformers' `MambaMixer.forward` computes for whole sequences, from the same weights."""
    x, gate = mixer.in_proj(hidden).chunk(2, dim=-1)
    x = causal_conv(x, mixer.conv1d.weight, mixer.conv1d.bias).to(x.dtype)
    sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
    step, B, C = mixer.x_proj(x).split(sizes, dim=-1)
    step = F.softplus(F.linear(step, mixer.dt_proj.weight).float() + mixer.dt_proj.bias.float())
    y = selective_scan(x, step, -torch.exp(mixer.A_log.float()), B, C) + mixer.D * x
    return mixer.out_proj((y * F.silu(gate)).to(x.dtype))


def mamba_logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """`MambaForCausalLM`'s logits, by the fast scan."""
    hidden = model.backbone.embeddings(ids)
    for block in model.backbone.layers:
        hidden = hidden + mamba_mixer(block.mixer, block.norm(hidden))
    return model.lm_head(model.backbone.norm_f(hidden))


def llama_logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """`LlamaForCausalLM`'s logits without its mask logic, which waits for the GPU and prevents capture."""
    hidden = model.model.embed_tokens(ids)
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    rotation = model.model.rotary_emb(hidden, position_ids=positions)
    for layer in model.model.layers:
        out = layer(hidden, attention_mask=None, position_embeddings=rotation, position_ids=positions)
        hidden = out[0] if isinstance(out, tuple) else out
    return model.lm_head(model.model.norm(hidden))
