"""Rivals in Triton: what one writes on two pages where a fused kernel is wanted.  One program a row, in blocks that a
multiprocessor holds."""

import torch
import triton
import triton.language as tl

BLOCK = 8192


@triton.jit
def _token_log_probs(logits, targets, log_prob, entropy, lse, V: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    peak, total, weighted = -float("inf"), 0.0, 0.0
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits + at, mask=at < V, other=-float("inf")).to(tl.float32)
        top = tl.maximum(peak, tl.max(z, 0))
        scale = tl.exp(peak - top)
        e = tl.exp(z - top)
        total = total * scale + tl.sum(e, 0)
        weighted = weighted * scale + tl.sum(tl.where(at < V, e * z, 0.0), 0)
        peak = top
    log_z = peak + tl.log(total)
    z_t = tl.load(logits + tl.load(targets + row)).to(tl.float32)
    tl.store(log_prob + row, z_t - log_z)
    tl.store(entropy + row, log_z - weighted / total)
    tl.store(lse + row, log_z)


def token_log_probs(logits, targets):
    out = [torch.empty(logits.shape[0], device=logits.device) for _ in range(3)]
    _token_log_probs[(logits.shape[0],)](logits, targets, *out, logits.shape[1], BLOCK, num_warps=16)
    return tuple(out)


@triton.jit
def _policy_loss_from_logits(
    logits, targets, old, ref, advantage, mask, active, row_loss, log_prob, d_logits, clip, kl_coef, V: tl.constexpr,
    BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    d_logits += row * V
    peak, total = -float("inf"), 0.0
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits + at, mask=at < V, other=-float("inf")).to(tl.float32)
        top = tl.maximum(peak, tl.max(z, 0))
        total = total * tl.exp(peak - top) + tl.sum(tl.exp(z - top), 0)
        peak = top
    log_z = peak + tl.log(total)
    target = tl.load(targets + row)
    lp = tl.load(logits + target).to(tl.float32) - log_z
    a = tl.load(advantage + row)
    share = tl.load(mask + row).to(tl.float32) / tl.load(active)
    ratio = tl.exp(lp - tl.load(old + row))
    plain = ratio * a
    clipped = tl.minimum(tl.maximum(ratio, 1 - clip), 1 + clip) * a
    delta = tl.load(ref + row) - lp
    tl.store(row_loss + row, share * (kl_coef * (tl.exp(delta) - delta - 1) - tl.minimum(plain, clipped)))
    tl.store(log_prob + row, lp)
    d_lp = share * (kl_coef * (1 - tl.exp(delta)) - tl.where(plain <= clipped, plain, 0.0))
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits + at, mask=at < V, other=-float("inf")).to(tl.float32)
        g = d_lp * (tl.where(at == target, 1.0, 0.0) - tl.exp(z - log_z))
        tl.store(d_logits + at, g.to(d_logits.dtype.element_ty), mask=at < V)


def policy_loss_from_logits(logits, targets, old, ref, advantage, mask):
    rows = logits.shape[0]
    row_loss, log_prob = (torch.empty(rows, device=logits.device) for _ in range(2))
    d_logits = torch.empty_like(logits)
    active = mask.sum(dtype=torch.float32)
    _policy_loss_from_logits[(rows,)](
        logits, targets, old, ref, advantage, mask, active, row_loss, log_prob, d_logits, 0.2, 0.04, logits.shape[1], BLOCK,
        num_warps=16)
    return row_loss.sum(), log_prob, d_logits


@triton.jit
def _group_advantage(rewards, advantage, mean, std, eps, MEMBERS: tl.constexpr, BLOCK: tl.constexpr):
    group = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    r = tl.load(rewards + group * MEMBERS + at, mask=at < MEMBERS, other=0.0)
    m = tl.sum(r, 0) / MEMBERS
    d = tl.where(at < MEMBERS, r - m, 0.0)
    s = tl.sqrt(tl.sum(d * d, 0) / (MEMBERS - 1))
    tl.store(advantage + group * MEMBERS + at, d / (s + eps), mask=at < MEMBERS)
    tl.store(mean + group, m)
    tl.store(std + group, s)


def group_advantage(rewards):
    groups, members = rewards.shape
    advantage = torch.empty_like(rewards)
    mean, std = (torch.empty(groups, device=rewards.device) for _ in range(2))
    _group_advantage[(groups,)](rewards, advantage, mean, std, 1e-4, members, triton.next_power_of_2(members), num_warps=1)
    return advantage, mean, std


@triton.jit
def _rms_norm(x, weight, y, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * COLUMNS + at, mask=at < COLUMNS, other=0.0)
    rstd = 1 / tl.sqrt(tl.sum(v * v, 0) / COLUMNS + eps)
    w = tl.load(weight + at, mask=at < COLUMNS, other=0.0)
    tl.store(y + row * COLUMNS + at, v * rstd * w, mask=at < COLUMNS)


def rms_norm(x, weight):
    y = torch.empty_like(x)
    _rms_norm[(x.shape[0],)](x, weight, y, 1e-6, x.shape[1], triton.next_power_of_2(x.shape[1]), num_warps=8)
    return (y,)
