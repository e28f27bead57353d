"""Times rollout batches of reinforcement learning in plain PyTorch: the loop that `saccade bench training_loop` measures.

    saccade bench training_loop --device cuda        runs it

Reads one JSON object: sizes of the model, of the prompts and responses, and of the batches.  Writes one a line for each engine:
{"engine", "seconds", "stages": {name: seconds}} with medians over batches, or {"engine", "note"} that says why it has no time;
before them {"software"}, or {"problem"} if there can be no more.

*eager* is the loop as one writes it.  *compiled* is the same under torch.compile(mode="reduce-overhead"), which replays CUDA
graphs: of a decode step over a cache of fixed size, of the passes before the first update, and of forward and backward pass of
an update; the optimizer is fused.

The model is a decoder over [image patches | question | response]: pre-norm with RMSNorm, learned positions, grouped-query
attention, SwiGLU, no biases, untied head.  The loss is that of GRPO: clipped ratios, K3 divergence from a reference, mean over
tokens; with "lambda" above 0 also the attention term of RAL: A * JSD between the last layer's attention policy, mean over heads,
over the keys before a token's own, and that of the policy which drew the samples.  Images and rewards are random: only the time
matters."""

import argparse
import json
import math
import sys
import time


def answer(**fields):
    print(json.dumps(fields), flush=True)


try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as e:
    answer(problem=str(e))
    sys.exit(0)

CLIP = 0.2
STAGES = ["sample", "score", "prepare", "update"]


class Block(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p
        d, heads, kv, dim, hidden = p["width"], p["heads"], p["kv_heads"], p["head_dim"], p["hidden"]
        residual = 1 / math.sqrt(2 * p["layers"])
        self.attention_norm = nn.Parameter(torch.ones(d))
        self.qkv = nn.Parameter(torch.randn(d, (heads + 2 * kv) * dim) / math.sqrt(d))
        self.output = nn.Parameter(torch.randn(heads * dim, d) * residual / math.sqrt(heads * dim))
        self.feed_forward_norm = nn.Parameter(torch.ones(d))
        self.gate_up = nn.Parameter(torch.randn(d, 2 * hidden) / math.sqrt(d))
        self.down = nn.Parameter(torch.randn(hidden, d) * residual / math.sqrt(hidden))

    def project(self, x):
        """q [B, H, T, D], k and v [B, Hkv, T, D]."""
        p = self.p
        rows = F.rms_norm(x, x.shape[-1:], self.attention_norm, 1e-6) @ self.qkv
        rows = rows.unflatten(-1, (-1, p["head_dim"])).transpose(1, 2)
        return rows.split([p["heads"], p["kv_heads"], p["kv_heads"]], 1)

    def finish(self, x, o):
        x = x + o.transpose(1, 2).flatten(2) @ self.output
        gate, up = (F.rms_norm(x, x.shape[-1:], self.feed_forward_norm, 1e-6) @ self.gate_up).chunk(2, -1)
        return x + (F.silu(gate) * up) @ self.down


def attend(q, k, v, **how):
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, **how)


class Policy(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p
        d = p["width"]
        self.patch = nn.Parameter(torch.randn(p["patch_size"], d) * 1.5 / math.sqrt(p["patch_size"]))
        self.token = nn.Parameter(torch.randn(p["vocabulary"], d) * 0.5)
        self.position = nn.Parameter(torch.randn(p["positions"], d) * 0.3)
        self.blocks = nn.ModuleList(Block(p) for _ in range(p["layers"]))
        self.final_norm = nn.Parameter(torch.ones(d))
        self.head = nn.Parameter(torch.randn(d, p["vocabulary"]) * 0.3 / math.sqrt(d))

    def embed(self, images, tokens):
        x = torch.cat([images @ self.patch, self.token[tokens]], 1)
        return x + self.position[: x.shape[1]]

    def logits(self, x):
        return F.rms_norm(x, x.shape[-1:], self.final_norm, 1e-6) @ self.head

    def forward(self, images, tokens, rows):
        """Logits of the last rows, and queries of these and keys of all rows of the last layer."""
        x = self.embed(images, tokens)
        for block in self.blocks:
            q, k, v = block.project(x)
            x = block.finish(x, attend(q, k, v, is_causal=True))
        return self.logits(x[:, -rows:]).float(), q[:, :, -rows:], k

    def prefill(self, images, tokens):
        """Logits of the last row, and keys and values of all layers."""
        x = self.embed(images, tokens)
        cache = []
        for block in self.blocks:
            q, k, v = block.project(x)
            cache.append((k, v))
            x = block.finish(x, attend(q, k, v, is_causal=True))
        return self.logits(x[:, -1]).float(), cache


class Cache(nn.Module):
    """Keys and values of all sequences, of a fixed size: buffers, which CUDA graphs may change in place."""

    def __init__(self, p, device, dtype):
        super().__init__()
        room = p["patches"] + p["question"] + p["response"]
        shape = (p["layers"], p["prompts"] * p["group"], p["kv_heads"], room, p["head_dim"])
        self.register_buffer("keys", torch.zeros(shape, device=device, dtype=dtype))
        self.register_buffer("values", torch.zeros(shape, device=device, dtype=dtype))
        self.register_buffer("index", torch.arange(room, device=device))


class Decoder(nn.Module):
    """A decode step over a cache of fixed size, and the draw of the next token: shapes that repeat."""

    def __init__(self, policy, cache):
        super().__init__()
        self.policy, self.cache = policy, cache

    def forward(self, tokens, at):
        policy, cache = self.policy, self.cache
        x = policy.token[tokens][:, None] + policy.position[at]
        mask = (cache.index <= at)[None, None, None, :]
        for layer, block in enumerate(policy.blocks):
            q, k, v = block.project(x)
            cache.keys[layer].index_copy_(2, at, k.to(cache.keys.dtype))
            cache.values[layer].index_copy_(2, at, v.to(cache.values.dtype))
            x = block.finish(x, attend(q, cache.keys[layer].to(q.dtype), cache.values[layer].to(q.dtype), attn_mask=mask))
        p = policy.logits(x[:, 0]).float().softmax(-1)
        # The exponential race: multinomial, without its look at the probabilities.
        return (p / torch.empty_like(p).exponential_()).argmax(-1)


def attention_policy(q, k):
    """Mean over heads of softmax(q k / sqrt(d)) over the keys before each row's own, renormalised; rows are the last ones."""
    if q.shape[1] != k.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    rows, keys = q.shape[2], k.shape[2]
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    own = torch.arange(keys - rows, keys, device=q.device)[:, None]
    index = torch.arange(keys, device=q.device)[None, :]
    p = scores.masked_fill(index > own, -math.inf).softmax(-1).mean(1)
    p = p.masked_fill(index >= own, 0)
    return p / p.sum(-1, keepdim=True).clamp(min=1e-20)


def jsd(p, q):
    m = (0.5 * (p + q)).clamp(min=1e-20).log()
    kl = lambda a: (a * (a.clamp(min=1e-20).log() - m)).sum(-1)
    return 0.5 * (kl(p) + kl(q))


class Loop:
    def __init__(self, p, device, compiled):
        self.p, self.device, self.compiled = p, device, compiled
        self.bf16 = p["precision"] == "BF16"
        torch.manual_seed(1)
        self.policy = Policy(p).to(device)
        self.reference = Policy(p).to(device).requires_grad_(False)
        self.reference.load_state_dict(self.policy.state_dict())
        matrices = [x for x in self.policy.parameters() if x.dim() > 1]
        norms = [x for x in self.policy.parameters() if x.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": norms, "weight_decay": 0.0}]
        fused = {"fused": True} if compiled and device.type == "cuda" else {}
        self.optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, **fused)
        self.generator = torch.Generator().manual_seed(2)
        self.measured_loss = self.loss
        self.measured_see = self.see
        self.measured_prefill = self.policy.prefill
        if compiled:
            self.measured_prefill = torch.compile(self.policy.prefill, mode="reduce-overhead")
            self.decoder = torch.compile(
                Decoder(self.policy, Cache(p, device, torch.bfloat16 if self.bf16 else torch.float32)), mode="reduce-overhead"
            )
            self.measured_loss = torch.compile(self.loss, mode="reduce-overhead")
            self.measured_see = torch.compile(self.see, mode="reduce-overhead")

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    # ------------------------------------------------------------------------------------------------------ sampling

    def sample(self, images, questions):
        with torch.no_grad(), self.autocast():
            return self.sample_compiled(images, questions) if self.compiled else self.sample_eager(images, questions)

    def sample_eager(self, images, questions):
        policy, group = self.policy, self.p["group"]
        logits, cache = self.measured_prefill(images, questions)
        logits = logits.repeat_interleave(group, 0)
        cache = [[x.repeat_interleave(group, 0) for x in pair] for pair in cache]
        drawn = []
        for step in range(self.p["response"]):
            if step > 0:
                at = self.p["patches"] + self.p["question"] + step - 1
                x = policy.token[drawn[-1]][:, None] + policy.position[at]
                for layer, block in enumerate(policy.blocks):
                    q, k, v = block.project(x)
                    keys, values = cache[layer]
                    cache[layer] = [torch.cat([keys, k], 2), torch.cat([values, v], 2)]
                    x = block.finish(x, attend(q, *cache[layer]))
                logits = policy.logits(x[:, 0]).float()
            drawn.append(torch.multinomial(logits.softmax(-1), 1)[:, 0])
        return torch.stack(drawn, 1)

    def sample_compiled(self, images, questions):
        p, cache = self.p, self.decoder.cache
        torch.compiler.cudagraph_mark_step_begin()
        logits, prompts = self.measured_prefill(images, questions)
        length = p["patches"] + p["question"]
        for layer, (k, v) in enumerate(prompts):
            cache.keys[layer, :, :, :length] = k.repeat_interleave(p["group"], 0)
            cache.values[layer, :, :, :length] = v.repeat_interleave(p["group"], 0)
        responses = torch.empty(p["prompts"] * p["group"], p["response"], dtype=torch.long, device=self.device)
        tokens = torch.multinomial(logits.repeat_interleave(p["group"], 0).softmax(-1), 1)[:, 0]
        responses[:, 0] = tokens
        for step in range(1, p["response"]):
            torch.compiler.cudagraph_mark_step_begin()
            tokens = self.decoder(tokens, torch.full((1,), length + step - 1, device=self.device)).clone()
            responses[:, step] = tokens
        return responses

    # ------------------------------------------------------------------------------------------------------- updates

    def log_probs(self, model, images, tokens, targets):
        logits, q, k = model(images, tokens, targets.shape[1])
        return logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0], q, k

    def see(self, images, tokens, targets):
        """What is known of a minibatch before the first update."""
        old, q, k = self.log_probs(self.policy, images, tokens, targets)
        reference = self.log_probs(self.reference, images, tokens, targets)[0]
        return old, reference, attention_policy(q, k) if self.p["lambda"] > 0 else old.new_zeros(1)

    def loss(self, images, tokens, targets, advantage, old, reference, attention):
        new, q, k = self.log_probs(self.policy, images, tokens, targets)
        ratio = (new - old).exp()
        a = advantage[:, None]
        loss = -torch.minimum(ratio * a, ratio.clamp(1 - CLIP, 1 + CLIP) * a)
        log_ratio = reference - new
        loss = loss + self.p["kl_coef"] * (log_ratio.exp() - log_ratio - 1)
        if self.p["lambda"] > 0:
            loss = loss + self.p["lambda"] * a * jsd(attention, attention_policy(q, k))
        return loss.mean()

    def update(self, batch):
        with self.autocast():
            loss = self.measured_loss(*batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach().clone(), norm

    # ---------------------------------------------------------------------------------------------------- the loop

    def batch(self, end):
        """One rollout batch; calls end(stage) after each."""
        p, device = self.p, self.device
        host = torch.rand(p["prompts"], p["patches"], p["patch_size"], generator=self.generator)
        words = torch.randint(p["vocabulary"], (p["prompts"], p["question"]), generator=self.generator)
        end(None)
        images, questions = host.to(device), words.to(device)
        responses = self.sample(images, questions)
        end("sample")
        drawn = responses.tolist()
        rewards = torch.rand(len(drawn), generator=self.generator).view(p["prompts"], p["group"]).to(device)
        std, mean = torch.std_mean(rewards, 1, keepdim=True)
        advantage = ((rewards - mean) / (std + 1e-4)).flatten()
        end("score")
        size = p["prompts"] // p["minibatches"]
        batches = []
        for first in range(0, p["prompts"], size):
            part = slice(first, first + size)
            rows = slice(first * p["group"], (first + size) * p["group"])
            own = images[part].repeat_interleave(p["group"], 0)
            targets = responses[rows].contiguous()
            tokens = torch.cat([questions[part].repeat_interleave(p["group"], 0), targets[:, :-1]], 1)
            with torch.no_grad(), self.autocast():
                if self.compiled:
                    torch.compiler.cudagraph_mark_step_begin()
                known = [x.clone() for x in self.measured_see(own, tokens, targets)]
            batches.append((own, tokens, targets, advantage[rows].contiguous(), *known))
        end("prepare")
        numbers = []
        for one in batches:
            if self.compiled:
                torch.compiler.cudagraph_mark_step_begin()
            numbers.append(self.update(one))
        torch.stack([x for pair in numbers for x in pair]).tolist()
        end("update")

    def seconds(self, timed):
        """Of a rollout batch; with `timed` of each stage, by events of the GPU."""
        on_gpu = self.device.type == "cuda"
        marks = []

        def end(stage):
            if stage is None or timed:
                mark = time.perf_counter()
                if on_gpu:
                    mark = torch.cuda.Event(enable_timing=True)
                    mark.record()
                marks.append((stage, mark))

        if on_gpu:
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()

        def begin(stage):
            nonlocal start
            if stage is None:
                start = time.perf_counter()  # random numbers of the host are not the loop's
            end(stage)

        self.batch(begin)
        if on_gpu:
            torch.cuda.synchronize(self.device)
        whole = time.perf_counter() - start
        stages = {}
        for (_, before), (stage, after) in zip(marks, marks[1:]):
            stages[stage] = before.elapsed_time(after) / 1e3 if on_gpu else after - before
        return whole, stages


def median(values):
    return sorted(values)[len(values) // 2]


def measure(p, device, engine, batches):
    loop = Loop(p, device, engine == "compiled")
    for _ in range(3):
        loop.seconds(True)
    whole = [loop.seconds(False)[0] for _ in range(batches)]
    stages = [loop.seconds(True)[1] for _ in range(batches)]
    return {"seconds": median(whole), "stages": {name: median([one[name] for one in stages]) for name in STAGES}}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--device", required=True)
    arguments.add_argument("--threads", type=int, default=0)
    arguments.add_argument("--engines", required=True)
    options = arguments.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return answer(problem="PyTorch without CUDA")
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    p = json.loads(sys.stdin.readline())
    tf32 = p["precision"] == "TF32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    answer(software=f"PyTorch {torch.__version__}")
    for engine in options.engines.split(","):
        try:
            answer(engine=engine, **measure(p, device, engine, p["batches"]))
        except Exception as e:  # what an engine cannot do is its answer
            answer(engine=engine, note=(str(e).strip().splitlines() or [type(e).__name__])[0][:200])


if __name__ == "__main__":
    main()
