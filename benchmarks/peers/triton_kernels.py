"""Rivals in Triton: what one writes on two pages where a fused kernel is wanted.  One program a row, in blocks that a
multiprocessor holds."""

import functools

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
def _count(mask, active, SIZE, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.sum(tl.load(mask + at, mask=at < SIZE, other=0).to(tl.int32), 0)
    tl.atomic_add(active, own.to(tl.float32))


def count(mask):
    """Below 2^24, so that any order of sums is exact."""
    active, size = torch.zeros((), device=mask.device), len(mask)
    _count[(triton.cdiv(size, BLOCK),)](mask, active, size, BLOCK, num_warps=8)
    return active


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
    active = count(mask)
    _policy_loss_from_logits[(rows,)](
        logits, targets, old, ref, advantage, mask, active, row_loss, log_prob, d_logits, 0.2, 0.04, logits.shape[1], BLOCK,
        num_warps=16)
    return row_loss.sum(), log_prob, d_logits


@triton.jit
def _logit_divergence(
    logits, ref_logits, weight, divergence, d_logits, KIND: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * V
    ref_logits += row * V
    d_logits += row * V
    peak, total, ref_peak, ref_total = -float("inf"), 0.0, -float("inf"), 0.0
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits + at, mask=at < V, other=-float("inf")).to(tl.float32)
        y = tl.load(ref_logits + at, mask=at < V, other=-float("inf")).to(tl.float32)
        top, ref_top = tl.maximum(peak, tl.max(z, 0)), tl.maximum(ref_peak, tl.max(y, 0))
        total = total * tl.exp(peak - top) + tl.sum(tl.exp(z - top), 0)
        ref_total = ref_total * tl.exp(ref_peak - ref_top) + tl.sum(tl.exp(y - ref_top), 0)
        peak, ref_peak = top, ref_top
    log_z, ref_log_z = peak + tl.log(total), ref_peak + tl.log(ref_total)
    # The divergence, and the mean of what multiplies p in the gradient.
    value, mean = 0.0, 0.0
    if KIND != 1:
        for start in range(0, V, BLOCK):
            at = start + tl.arange(0, BLOCK)
            lp = tl.load(logits + at, mask=at < V, other=0.0).to(tl.float32) - log_z
            lr = tl.load(ref_logits + at, mask=at < V, other=0.0).to(tl.float32) - ref_log_z
            p, r = tl.exp(lp), tl.exp(lr)
            if KIND == 0:
                lm = tl.log(0.5 * (p + r))
                value += tl.sum(tl.where(at < V, 0.5 * r * (lr - lm), 0.0), 0)
                own = 0.5 * p * (lp - lm)
            else:
                own = p * (lp - lr)
            mean += tl.sum(tl.where(at < V, own, 0.0), 0)
        value += mean
    w = tl.load(weight + row)
    for start in range(0, V, BLOCK):
        at = start + tl.arange(0, BLOCK)
        lp = tl.load(logits + at, mask=at < V, other=0.0).to(tl.float32) - log_z
        lr = tl.load(ref_logits + at, mask=at < V, other=0.0).to(tl.float32) - ref_log_z
        p, r = tl.exp(lp), tl.exp(lr)
        if KIND == 0:
            g = p * (0.5 * (lp - tl.log(0.5 * (p + r))) - mean)
        elif KIND == 1:
            g = p - r
            value += tl.sum(tl.where(at < V, r * (lr - lp), 0.0), 0)
        else:
            g = p * (lp - lr - mean)
        tl.store(d_logits + at, (w * g).to(d_logits.dtype.element_ty), mask=at < V)
    tl.store(divergence + row, value)


def _divergence(kind, logits, ref_logits, weight):
    divergence, d_logits = torch.empty_like(weight), torch.empty_like(logits)
    _logit_divergence[(logits.shape[0],)](
        logits, ref_logits, weight, divergence, d_logits, kind, logits.shape[1], BLOCK, num_warps=16)
    return divergence, d_logits


logit_divergence_jsd = functools.partial(_divergence, 0)
logit_divergence_forward_kl = functools.partial(_divergence, 1)
logit_divergence_reverse_kl = functools.partial(_divergence, 2)


@triton.jit
def _sampled_kl(log_prob, ref_log_prob, kl, d_log_prob, SIZE, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    delta = tl.load(ref_log_prob + at, mask=at < SIZE, other=0.0) - tl.load(log_prob + at, mask=at < SIZE, other=0.0)
    ratio = tl.exp(delta)
    tl.store(kl + at, ratio - 1 - delta, mask=at < SIZE)
    tl.store(d_log_prob + at, 1 - ratio, mask=at < SIZE)


def sampled_kl(log_prob, ref_log_prob):
    kl, d_log_prob = torch.empty_like(log_prob), torch.empty_like(log_prob)
    size = len(log_prob)
    _sampled_kl[(triton.cdiv(size, 1024),)](log_prob, ref_log_prob, kl, d_log_prob, size, 1024, num_warps=4)
    return kl, d_log_prob


@triton.jit
def _policy_loss(log_prob, old, ref, advantage, mask, active, losses, d_log_prob, clip, kl_coef, SIZE, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    at = block * BLOCK + tl.arange(0, BLOCK)
    lp = tl.load(log_prob + at, mask=at < SIZE, other=0.0)
    a = tl.load(advantage + at, mask=at < SIZE, other=0.0)
    share = tl.load(mask + at, mask=at < SIZE, other=0).to(tl.float32) / tl.load(active)
    ratio = tl.exp(lp - tl.load(old + at, mask=at < SIZE, other=0.0))
    plain = ratio * a
    clipped = tl.minimum(tl.maximum(ratio, 1 - clip), 1 + clip) * a
    delta = tl.load(ref + at, mask=at < SIZE, other=0.0) - lp
    loss = share * (kl_coef * (tl.exp(delta) - delta - 1) - tl.minimum(plain, clipped))
    tl.store(losses + block, tl.sum(loss, 0))
    d_lp = share * (kl_coef * (1 - tl.exp(delta)) - tl.where(plain <= clipped, plain, 0.0))
    tl.store(d_log_prob + at, d_lp, mask=at < SIZE)


def policy_loss(log_prob, old, ref, advantage, mask):
    size = len(log_prob)
    blocks = triton.cdiv(size, 1024)
    losses, d_log_prob = torch.empty(blocks, device=log_prob.device), torch.empty_like(log_prob)
    active = count(mask)
    _policy_loss[(blocks,)](
        log_prob, old, ref, advantage, mask, active, losses, d_log_prob, 0.2, 0.04, size, 1024, num_warps=4)
    return losses.sum(), d_log_prob


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
