"""Times PyTorch on shapes of GpuFigures, by CUDA events: one JSON object a line, which GpuFigures reads.

    python3 gpu_figures.py >> notes.jsonl

What does not fit in memory, or this version cannot do, is left out, with the reason on the standard error.
"""

import json
import sys

import torch
import torch.nn.functional as F


def milliseconds(work, least=10.0, repetitions=9):
    """Median of repetitions that take `least` ms or more each."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def repetition(launches):
        start.record()
        for _ in range(launches):
            work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    repetition(3)  # compiles, and tunes
    launches = max(1, int(least / repetition(3) * 3 + 1))
    return sorted(repetition(launches) / launches for _ in range(repetitions))[repetitions // 2]


def measure(name, shape, dtype, prepare, **peers):
    """Each peer is a function of what prepare() gives."""
    for peer, work in peers.items():
        try:
            inputs = prepare()
            time = milliseconds(lambda: work(*inputs))
            line = {"name": name, "shape": shape, "dtype": dtype, "peer": peer.replace("_", " "), "milliseconds": time}
            print(json.dumps(line), flush=True)
        except (RuntimeError, TypeError) as e:
            print(f"{name} {shape}, {peer}: {str(e).splitlines()[0]}", file=sys.stderr)
        inputs = None
        torch.cuda.empty_cache()


def normal(*shape, dtype=torch.float32, grad=False):
    return torch.randn(*shape, device="cuda", dtype=dtype).requires_grad_(grad)


def token_log_probs(logits, targets):
    log_p = torch.log_softmax(logits.float(), -1)
    return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def grpo_loss(logits, targets, old, ref, advantage):
    log_prob = torch.log_softmax(logits.float(), -1).gather(-1, targets[:, None])[:, 0]
    ratio = (log_prob - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    d = ref - log_prob
    return (0.04 * (d.exp() - d - 1) - surrogate).mean()


def divergence(kind):
    def value(logits, ref_logits, weight):
        p, r = torch.log_softmax(logits.float(), -1), torch.log_softmax(ref_logits.float(), -1)
        if kind == "FORWARD_KL":
            rows = (r.exp() * (r - p)).sum(-1)
        elif kind == "REVERSE_KL":
            rows = (p.exp() * (p - r)).sum(-1)
        else:
            m = torch.logaddexp(p, r) - 0.6931471805599453
            rows = 0.5 * ((r.exp() * (r - m)).sum(-1) + (p.exp() * (p - m)).sum(-1))
        return (weight * rows).sum()

    return value


def attention_divergence(q, k, lse, ref, weight, seen):
    """JSD of ref [B, Tq, Tk] and the mean over heads of q [B, H, Tq, D], k [B, KV, Tk, D]; gradients in closed form."""
    (_, heads, _, dim), (batch, kv, tokens, _) = q.shape, k.shape
    scale, least = dim**-0.5, 2.0**-126
    k_all = k.repeat_interleave(heads // kv, 1)
    p_heads = torch.exp((q @ k_all.mT).float() * scale - lse[..., None]).masked_fill(~seen, 0.0)
    p = p_heads.mean(1)
    m = 0.5 * (p + ref)
    log_p, log_r, log_m = (x.clamp(min=least).log() for x in (p, ref, m))
    loss = (weight * 0.5 * (ref * (log_r - log_m) + p * (log_p - log_m)).sum(-1)).sum()
    g = 0.5 * weight[..., None] * (log_p - log_m)
    d_p = ((g - (p * g).sum(-1, keepdim=True)) / heads)[:, None]
    d_s = (scale * p_heads * (d_p - (p_heads * d_p).sum(-1, keepdim=True))).to(q.dtype)
    return loss, d_s @ k_all, (d_s.mT @ q).view(batch, kv, heads // kv, tokens, dim).sum(2)


def with_gradient(loss):
    return lambda logits, *others: torch.autograd.grad(loss(logits, *others), logits)


def main():
    rows, bf16 = 8192, torch.bfloat16
    vocabulary = 151936
    shape = f"{rows} × {vocabulary}"
    per_row = lambda: [torch.randn(rows, device="cuda") for _ in range(3)]
    targets = torch.randint(vocabulary, (rows,), device="cuda")

    def logits(grad=False):
        return normal(rows, vocabulary, dtype=bf16, grad=grad)

    with torch.no_grad():
        measure("token_log_probs", shape, "bf16", lambda: (logits(), targets),
                eager=token_log_probs, compiled=torch.compile(token_log_probs))
    measure("policy_loss_from_logits", shape, "bf16", lambda: (logits(True), targets, *per_row()),
            eager=with_gradient(grpo_loss), compiled=with_gradient(torch.compile(grpo_loss)))
    for kind in "FORWARD_KL", "REVERSE_KL", "JSD":
        compiled = {} if kind == "REVERSE_KL" else {"compiled": with_gradient(torch.compile(divergence(kind)))}
        measure(f"logit_divergence {kind}", shape, "bf16",
                lambda: (logits(True), logits(), torch.rand(rows, device="cuda")), eager=with_gradient(divergence(kind)), **compiled)

    def optimizer():
        params = [normal(1 << 20, grad=True) for _ in range(256)]
        for p in params:
            p.grad = torch.randn_like(p)
        return torch.optim.AdamW(params, lr=1e-3, fused=True), params, [torch.empty_like(p, dtype=bf16) for p in params]

    def step(adamw, params, copies):
        adamw.step()
        with torch.no_grad():
            torch._foreach_copy_(copies, params)

    measure("adamw with bf16 copies", "256 tensors of 1048576", "f32", optimizer, fused=step)
    measure("grad_norm", "256 tensors of 1048576", "f32", lambda: ([normal(1 << 20) for _ in range(256)],),
            eager=lambda grads: torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))

    for dim in 64, 128:
        for tokens, heads, kv in (2048, 16, 16), (4096, 32, 8):
            shape = f"2 × {tokens} × {heads if heads == kv else f'{heads}/{kv}'} × {dim}"

            def sdpa(q, k, v):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv)

            def inputs(dtype, grad):
                q, k, v = (normal(2, h, tokens, dim, dtype=dtype, grad=grad) for h in (heads, kv, kv))
                return (sdpa(q, k, v), (q, k, v), normal(2, heads, tokens, dim, dtype=dtype)) if grad else (q, k, v)

            def backward(o, qkv, d_o):
                torch.autograd.grad(o, qkv, d_o, retain_graph=True)

            for dtype, suffix, peer in (torch.float32, "", "f32"), (bf16, " BF16", "bf16"):
                if heads != kv and peer == "f32":
                    continue
                measure("attention forward" + suffix, shape, "f32", lambda: inputs(dtype, False), **{peer: sdpa})
                measure("attention backward" + suffix, shape, "f32", lambda: inputs(dtype, True), **{peer: backward})

    for batch, heads, kv, queries, keys in (1, 28, 4, 512, 4096), (1, 28, 4, 512, 16384), (4, 28, 4, 1024, 8192), (2, 32, 8, 4096, 4096):

        def policy():
            q, k = normal(batch, heads, queries, 128, dtype=bf16), normal(batch, kv, keys, 128, dtype=bf16)
            seen = torch.ones(queries, keys, device="cuda", dtype=torch.bool).tril(keys - queries)
            lse = torch.stack([
                ((x @ y.repeat_interleave(heads // kv, 0).mT).float() * 128**-0.5).masked_fill(~seen, -torch.inf).logsumexp(-1)
                for x, y in zip(q, k)])
            ref = normal(batch, queries, keys).masked_fill(~seen, -torch.inf).softmax(-1)
            return q, k, lse, ref, normal(batch, queries), seen

        measure("attention_divergence", f"{batch} × {queries} of {keys} × {heads}/{kv} × 128", "bf16", policy,
                eager=attention_divergence, compiled=torch.compile(attention_divergence))


if __name__ == "__main__":
    main()
