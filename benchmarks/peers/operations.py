"""The operations of the benchmarks in plain PyTorch, and the same calls of Saccade's library on the same tensors.

Each class is one workload: make() gives the data of one copy, of the benchmark's parameters; forward() does the work, as one
writes it, and where `leaves` names inputs by their positions, autograd adds the gradient of its first result; call() prepares
the library's call and gives its results in the same order.  What is written in place is listed in `state`."""

import ctypes
import math
import random

import torch
import torch.nn.functional as F

F32, BF16 = torch.float32, torch.bfloat16
DTYPES = {"f32": F32, "bf16": BF16, "f16": torch.float16}
CODES = {F32: 0, BF16: 1, torch.float16: 2}
NONE = {}
LONG = 1 << 26  # bytes of a tensor, from which on its place does not count


class Operation:
    """Data, and what is done with it."""

    leaves = ()
    triton = None  # a function of triton_kernels, of the same inputs, that gives all results
    compiles = True  # else PyTorch has a kernel of its own
    compared = None  # how many of the results, where not all
    state = ()

    places = random.Random(1)

    def __init__(self, p, dtype, device, method):
        self.p, self.dtype, self.device, self.method = p, DTYPES[dtype], device, method
        self.generator = torch.Generator(device).manual_seed(1)
        self.inputs = tuple(map(self.moved, self.make(p)))

    def run(self, forward):
        """All results; forward is that of this class, compiled or not."""
        if not self.leaves:
            return forward(*self.inputs)
        inputs = [x.detach().requires_grad_(True) if i in self.leaves else x for i, x in enumerate(self.inputs)]
        results = forward(*inputs)
        gradients = torch.autograd.grad(results[0], [inputs[i] for i in self.leaves], self.by(*inputs))
        return *(x.detach() for x in results), *gradients

    def by(self, *inputs):
        """The gradient of the first result; None for 1."""

    def normal(self, *shape, dtype=F32, mean=0.0, std=1.0):
        return torch.randn(*shape, device=self.device, generator=self.generator).mul_(std).add_(mean).to(dtype)

    def index(self, count, bound, dtype=torch.int32):
        return torch.randint(bound, (count,), device=self.device, generator=self.generator).to(dtype)

    def empty(self, *shape, dtype=F32):
        """Anywhere in pages of 2 MB: how tensors lie to each other is worth some percent of a short kernel on a GPU, and
        allocators repeat themselves."""
        count = math.prod(shape) * dtype.itemsize
        before = 512 * self.places.randrange(4096) if self.device.type == "cuda" else 0
        return torch.empty(before + count, device=self.device, dtype=torch.uint8)[before:].view(dtype).view(shape)

    def empty_like(self, x):
        return self.empty(*x.shape, dtype=x.dtype)

    def moved(self, x):
        if not torch.is_tensor(x) or self.device.type != "cuda" or not x.is_contiguous() or x.nbytes >= LONG:
            return x
        return self.empty_like(x).copy_(x)

    def offsets(self, count, length):
        return torch.arange(0, (count + 1) * length, length, device=self.device, dtype=torch.int32)


# --------------------------------------------------------------------------------------------------- rows and logits


class GroupAdvantage(Operation):
    ESTIMATORS = ["GRPO", "DR_GRPO", "RLOO", "BATCH_STD", "REINFORCE_PP_BASELINE"]

    def make(self, p):
        if p["estimator"] == "GRPO":
            self.triton = "group_advantage"
        return (self.normal(p["groups"], p["members"]),)

    def forward(self, rewards):
        std, mean = torch.std_mean(rewards, 1)
        centred = rewards - mean[:, None]
        estimator = self.p["estimator"]
        if estimator == "GRPO":
            advantage = centred / (std[:, None] + 1e-4)
        elif estimator == "RLOO":
            advantage = centred * (rewards.shape[1] / (rewards.shape[1] - 1))
        elif estimator == "BATCH_STD":
            advantage = centred / (rewards.std() + 1e-4)
        elif estimator == "REINFORCE_PP_BASELINE":
            advantage = centred / (centred.std() + 1e-4)
        else:
            advantage = centred
        return advantage, mean, std

    def call(self, library, workspace, rewards):
        groups, members = rewards.shape
        out = self.empty(groups, members), self.empty(groups), self.empty(groups)
        return library.call(
            "group_advantage", workspace, size=groups * members, groups=groups, rewards=rewards,
            offsets=self.offsets(groups, members), advantage=out[0], mean=out[1], std=out[2],
            estimator=self.ESTIMATORS.index(self.p["estimator"]), ddof=1, eps=1e-4), out


class Logits(Operation):
    def logits(self, p):
        return self.normal(p["rows"], p["vocabulary"], dtype=self.dtype, std=2)

    def rows(self, rows, vocabulary):
        return dict(rows=rows, vocabulary=vocabulary)


class TokenLogProbs(Logits):
    triton = "token_log_probs"

    def make(self, p):
        return self.logits(p), self.index(p["rows"], p["vocabulary"])

    def forward(self, logits, targets):
        log_p = torch.log_softmax(logits.float(), -1)
        log_prob = log_p.gather(-1, targets.long()[:, None])[:, 0]
        lse = logits.gather(-1, targets.long()[:, None])[:, 0].float() - log_prob
        return log_prob, -(log_p.exp() * log_p).sum(-1), lse

    def call(self, library, workspace, logits, targets):
        out = tuple(self.empty(len(targets)) for _ in range(3))
        return library.call(
            "token_log_probs", workspace, **self.rows(*logits.shape), logits=logits, logits_dtype=CODES[self.dtype],
            ignore_index=-100, targets=targets, temperature=1, log_prob=out[0], entropy=out[1], lse=out[2]), out


class TokenLogProbsGradient(Logits):
    leaves = (0,)

    def make(self, p):
        return self.logits(p), self.index(p["rows"], p["vocabulary"]), self.normal(p["rows"], mean=1, std=0.3)

    def forward(self, logits, targets, d_log_prob):
        return (torch.log_softmax(logits.float(), -1).gather(-1, targets.long()[:, None])[:, 0],)

    def by(self, logits, targets, d_log_prob):
        return d_log_prob

    def call(self, library, workspace, logits, targets, d_log_prob):
        out = self.empty(len(targets)), self.empty_like(logits)
        common = dict(self.rows(*logits.shape), logits=logits, logits_dtype=CODES[self.dtype], ignore_index=-100,
                      targets=targets, temperature=1)
        forward = library.call("token_log_probs", workspace, **common, log_prob=out[0])
        backward = library.call("token_log_probs_backward", workspace, **common, d_log_prob=d_log_prob, d_logits=out[1],
                                d_logits_dtype=CODES[self.dtype])
        return in_turn(forward, backward), out


def in_turn(*calls):
    def run():
        for call in calls:
            call()

    run.extra_bytes = max(call.extra_bytes for call in calls)
    return run


class SampledKl(Operation):
    leaves = (0,)
    triton = "sampled_kl"

    def make(self, p):
        self.one = torch.ones((), device=self.device).expand(p["rows"])
        log_prob = self.normal(p["rows"], mean=-3)
        return log_prob, log_prob + self.normal(p["rows"], std=0.3)

    def forward(self, log_prob, ref_log_prob):
        delta = ref_log_prob - log_prob
        return (torch.expm1(delta) - delta,)

    def by(self, log_prob, ref_log_prob):
        return self.one

    def call(self, library, workspace, log_prob, ref_log_prob):
        out = self.empty_like(log_prob), self.empty_like(log_prob)
        return library.call(
            "sampled_kl", workspace, rows=len(log_prob), log_prob=log_prob, ref_log_prob=ref_log_prob, kl=out[0],
            d_log_prob=out[1], estimator=3), out


class LogitDivergence(Logits):
    leaves = (0,)
    KINDS = ["JSD", "FORWARD_KL", "REVERSE_KL"]

    def make(self, p):
        self.triton = "logit_divergence_" + p["kind"].lower()
        logits = self.logits(p)
        near = torch.randn(logits.shape, device=self.device, generator=self.generator, dtype=logits.dtype) * 0.5
        return logits, near.add_(logits), self.normal(p["rows"], mean=1, std=0.3)

    def forward(self, logits, ref_logits, weight):
        p, r = torch.log_softmax(logits.float(), -1), torch.log_softmax(ref_logits.float(), -1)
        if self.p["kind"] == "FORWARD_KL":
            rows = (r.exp() * (r - p)).sum(-1)
        elif self.p["kind"] == "REVERSE_KL":
            rows = (p.exp() * (p - r)).sum(-1)
        else:
            m = torch.logaddexp(p, r) - 0.6931471805599453
            rows = 0.5 * ((r.exp() * (r - m)).sum(-1) + (p.exp() * (p - m)).sum(-1))
        return (rows,)

    def by(self, logits, ref_logits, weight):
        return weight

    def call(self, library, workspace, logits, ref_logits, weight):
        out = self.empty(len(weight)), self.empty_like(logits)
        return library.call(
            "logit_divergence", workspace, **self.rows(*logits.shape), logits=logits, ref_logits=ref_logits,
            dtype=CODES[self.dtype], kind=self.KINDS.index(self.p["kind"]), beta=0.5, temperature=1, weight=weight,
            divergence=out[0], d_logits=out[1], d_logits_dtype=CODES[self.dtype]), out


class SampleTokens(Logits):
    compared = 0  # draws

    def make(self, p):
        return (self.logits(p),)

    def forward(self, logits):
        # As torch.multinomial draws, without its checks.
        p = torch.softmax(logits.float() / self.p["temperature"], -1)
        return ((p / torch.empty_like(p).exponential_(1)).argmax(-1),)

    def call(self, library, workspace, logits):
        out = (self.empty(len(logits), dtype=torch.int32),)
        return library.call(
            "sample_tokens", workspace, **self.rows(*logits.shape), logits=logits, logits_dtype=CODES[self.dtype],
            temperature=self.p["temperature"], seed=1, tokens=out[0], top_p=self.p["topP"]), out


# -------------------------------------------------------------------------------------------------------- the policy


def token_loss(log_prob, old, ref, advantage):
    ratio = (log_prob - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    delta = ref - log_prob
    return 0.04 * (torch.expm1(delta) - delta) - surrogate


class Policy(Logits):
    def batch(self, log_prob, active=1.0, rounding=0.0):
        """Around log_prob, of which engines may be off by `rounding`: at a bound of the ratio they would clip or not."""
        rows = len(log_prob)
        mask = (torch.rand(rows, device=self.device, generator=self.generator) < active).to(torch.uint8)
        old = log_prob + self.normal(rows, std=0.1)
        near = (torch.expm1(log_prob - old).abs() - 0.2).abs() < rounding
        return (torch.where(near, log_prob, old), log_prob + self.normal(rows, std=0.1), self.normal(rows, mean=0.5), mask)

    def policy(self, library, old, ref, advantage, mask, **more):
        rows, sequences = len(old), self.p["sequences"]
        if rows % sequences:
            sequences = 1
        return dict(rows=rows, sequences=sequences, old_log_prob=old, ref_log_prob=ref, advantage=advantage, mask=mask,
                    offsets=self.offsets(sequences, rows // sequences), clip_low=0.2, clip_high=0.2, kl_coef=0.04,
                    kl_estimator=3, tau_pos=1.0, tau_neg=1.05, **more)

    def from_logits(self, logits, targets, old, ref, advantage, mask):
        log_prob = torch.log_softmax(logits.float(), -1).gather(-1, targets.long()[:, None])[:, 0]
        losses = token_loss(log_prob, old, ref, advantage) * mask
        return losses.sum() / mask.sum(), log_prob.detach()


class PolicyLoss(Policy):
    leaves = (0,)
    triton = "policy_loss"

    def make(self, p):
        log_prob = self.normal(p["sequences"] * p["length"], mean=-3)
        return log_prob, *self.batch(log_prob, 0.9, rounding=1e-5)

    def forward(self, log_prob, old, ref, advantage, mask):
        return ((token_loss(log_prob, old, ref, advantage) * mask).sum() / mask.sum(),)

    def call(self, library, workspace, log_prob, *batch):
        out = self.empty(1), self.empty_like(log_prob)
        return library.call("policy_loss", workspace, **self.policy(
            library, *batch, log_prob=log_prob, loss=out[0], d_log_prob=out[1])), out


class PolicyLossFromLogits(Policy):
    leaves = (0,)
    triton = "policy_loss_from_logits"

    def make(self, p):
        logits, targets = self.logits(p), self.index(p["rows"], p["vocabulary"])
        near = logits.gather(-1, targets.long()[:, None])[:, 0].float() - torch.logsumexp(logits[:64].float(), -1).mean()
        return logits, targets, *self.batch(near)

    def forward(self, logits, *others):
        return self.from_logits(logits, *others)

    def call(self, library, workspace, logits, targets, *batch):
        out = self.empty(1), self.empty(len(targets)), self.empty_like(logits)
        policy = library.struct("saccade_policy_loss_args", **self.policy(library, *batch, loss=out[0]))
        return library.call(
            "policy_loss_from_logits", workspace, policy=policy, vocabulary=logits.shape[1], logits=logits,
            logits_dtype=CODES[self.dtype], ignore_index=-100, targets=targets, temperature=1, log_prob=out[1],
            d_logits=out[2], d_logits_dtype=CODES[self.dtype]), out


class LinearPolicyLoss(Policy):
    leaves = (0, 1)

    def make(self, p):
        hidden = self.normal(p["rows"], p["hiddenSize"], dtype=self.dtype)
        weight = self.normal(p["vocabulary"], p["hiddenSize"], dtype=self.dtype, std=2 * p["hiddenSize"] ** -0.5)
        targets = self.index(p["rows"], p["vocabulary"])
        logits = torch.cat([(hidden @ part.mT).float().logsumexp(-1, keepdim=True) for part in weight.split(4096)], 1)
        near = (hidden.float() * weight[targets.long()].float()).sum(-1) - logits.logsumexp(-1)
        return hidden, weight, targets, *self.batch(near, rounding=2.0**-4)  # of logits in 16 bits

    def forward(self, hidden, weight, *others):
        return self.from_logits(hidden @ weight.mT, *others)

    def call(self, library, workspace, hidden, weight, targets, *batch):
        library.provide_products()
        out = self.empty(1), self.empty(len(targets)), self.empty_like(hidden), self.empty_like(weight)
        policy = library.struct("saccade_policy_loss_args", **self.policy(library, *batch, loss=out[0]))
        code = CODES[self.dtype]
        return library.call(
            "linear_policy_loss", workspace, policy=policy, vocabulary=len(weight), hidden_size=hidden.shape[1],
            chunk_rows=1024, hidden=hidden, weight=weight, dtype=code, ignore_index=-100, targets=targets, temperature=1,
            log_prob=out[1], d_hidden=out[2], d_weight=out[3], d_hidden_dtype=code, d_weight_dtype=code), out


# --------------------------------------------------------------------------------------------------------- attention


class Heads(Operation):
    """Packed as the library takes it, [rows, heads, dim]; PyTorch sees [sequences, heads, rows, dim] of the same memory."""

    def packed(self, positions, heads, dtype):
        return self.normal(self.p["batch"] * positions, heads, self.p["dim"], dtype=dtype)

    def split(self, x):
        return x.view(self.p["batch"], -1, *x.shape[1:]).transpose(1, 2)

    def strides(self, **tensors):
        """The fields of tensors [rows, heads, dim]."""
        fields = {}
        for name, tensor in tensors.items():
            fields.update({name: tensor, f"{name}_row_stride": tensor.stride(0), f"{name}_head_stride": tensor.stride(1)})
        return fields

    def shape(self, queries, keys):
        p = self.p
        return dict(rows=p["batch"] * queries, keys=p["batch"] * keys, sequences=p["batch"], heads=p["heads"],
                    kv_heads=p["kvHeads"], head_dim=p["dim"], offsets_q=self.offsets(p["batch"], queries),
                    offsets_k=self.offsets(p["batch"], keys), max_keys=keys, scale=p["dim"] ** -0.5)


class AttentionPolicy(Heads):
    def make(self, p):
        seen = torch.ones(p["rows"], p["keys"], device=self.device, dtype=torch.bool).tril(p["keys"] - p["rows"])
        return (self.packed(p["rows"], p["heads"], self.dtype), self.packed(p["keys"], p["kvHeads"], self.dtype), seen,
                seen.tril(p["keys"] - p["rows"] - 1))

    def probabilities(self, q, k, seen):
        q, k = self.split(q), self.split(k).repeat_interleave(self.p["heads"] // self.p["kvHeads"], 1)
        scores = ((q @ k.mT).float() * self.p["dim"] ** -0.5).masked_fill(~seen, -torch.inf)
        lse = scores.logsumexp(-1)
        return (scores - lse[..., None]).exp(), lse

    def forward(self, q, k, seen, previous):
        p_heads, lse = self.probabilities(q, k, seen)
        mean = p_heads.mean(1) * previous
        mass = mean.sum(-1)
        p = mean / mass[..., None].clamp(min=1e-20)
        entropy = -torch.special.xlogy(p, p).sum(-1)
        return entropy.flatten(), mass.flatten(), lse.transpose(0, 1).flatten(1), p.flatten(0, 1)

    def call(self, library, workspace, q, k, seen, previous):
        rows = len(q)
        out = self.empty(rows), self.empty(rows), self.empty(q.shape[1], rows), self.empty(rows, self.p["keys"])
        return library.call(
            "attention_policy", workspace, **self.shape(self.p["rows"], self.p["keys"]), **self.strides(q=q, k=k),
            dtype=CODES[self.dtype], support=1, head_end=q.shape[1], entropy=out[0], mass=out[1], lse=out[2], map=out[3],
            map_stride=self.p["keys"]), out


class AttentionDivergence(AttentionPolicy):
    def make(self, p):
        self.leaves = () if p["lseGiven"] == "true" else (0, 1)
        q, k, seen, previous = super().make(p)
        ref = self.normal(p["batch"], p["rows"], p["keys"]).masked_fill_(~previous, -torch.inf).softmax(-1)
        weight = self.normal(p["batch"], p["rows"])
        lse = torch.stack([self.lse(x, y, seen) for x, y in zip(self.split(q), self.split(k))], 1).flatten(1)
        return q, k, seen, previous, ref.nan_to_num_(0), weight, lse

    def lse(self, q, k, seen):
        k = k.repeat_interleave(len(q) // len(k), 0)
        return ((q @ k.mT).float() * self.p["dim"] ** -0.5).masked_fill(~seen, -torch.inf).logsumexp(-1)

    def divergence(self, mean, ref, weight):
        """Of the mean over heads, off the support 0; and what it is made of."""
        mass = mean.sum(-1, keepdim=True).clamp(min=1e-20)
        p, least = mean / mass, 2.0**-126
        log_p, log_r, log_m = (x.clamp(min=least).log() for x in (p, ref, 0.5 * (p + ref)))
        loss = (weight * 0.5 * (ref * (log_r - log_m) + p * (log_p - log_m)).sum(-1)).sum()
        return loss, mass, p, log_p - log_m

    def forward(self, q, k, seen, previous, ref, weight, lse):
        if self.p["lseGiven"] == "true":
            return self.by_hand(q, k, seen, previous, ref, weight, lse)
        return self.divergence(self.probabilities(q, k, seen)[0].mean(1) * previous, ref, weight)[:1]

    def by_hand(self, q, k, seen, previous, ref, weight, lse):
        """Gradients in closed form: autograd would not use the log-sum-exps."""
        heads, kv, scale = self.p["heads"], self.p["kvHeads"], self.p["dim"] ** -0.5
        q, k = self.split(q), self.split(k)
        k_all = k.repeat_interleave(heads // kv, 1)
        lse = lse.view(heads, self.p["batch"], -1).transpose(0, 1)
        p_heads = torch.exp((q @ k_all.mT).float() * scale - lse[..., None]).masked_fill(~seen, 0.0)
        loss, mass, p, g = self.divergence(p_heads.mean(1) * previous, ref, weight)
        g = 0.5 * weight[..., None] * g
        d_p = ((g - (p * g).sum(-1, keepdim=True)) / mass * previous / heads)[:, None]
        d_s = (scale * p_heads * (d_p - (p_heads * d_p).sum(-1, keepdim=True))).to(q.dtype)
        dk = (d_s.mT @ q).unflatten(1, (kv, heads // kv)).sum(2)
        return loss, (d_s @ k_all).transpose(1, 2).flatten(0, 1), dk.transpose(1, 2).flatten(0, 1)

    def call(self, library, workspace, q, k, seen, previous, ref, weight, lse):
        out = self.empty(1), self.empty_like(q), self.empty_like(k)
        given = dict(lse=lse) if self.p["lseGiven"] == "true" else NONE
        return library.call(
            "attention_divergence", workspace, **self.shape(self.p["rows"], self.p["keys"]),
            **self.strides(q=q, k=k, dq=out[1], dk=out[2]), dtype=CODES[self.dtype], support=1, head_end=q.shape[1],
            weight=weight, ref=ref, ref_stride=self.p["keys"], beta=0.5, loss=out[0], grad_dtype=CODES[self.dtype],
            **given), out


class Attention(Heads):
    """The library takes f32 and rounds; PyTorch is given what it wants, in bf16 where products are."""

    compiles = False
    PRECISIONS = ["F32", "TF32", "BF16"]

    def make(self, p):
        self.type = BF16 if p["precision"] == "BF16" else F32
        packed = [self.packed(p["rows"], heads, F32) for heads in (p["heads"], p["kvHeads"], p["kvHeads"], p["heads"])]
        return tuple(packed) + tuple(self.split(x).to(self.type) for x in packed)

    def sdpa(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.p["heads"] != self.p["kvHeads"])

    def unsplit(self, x):
        return x.transpose(1, 2).flatten(0, 1)

    def forward(self, q, k, v, d_o, q_heads, k_heads, v_heads, d_o_heads):
        if self.method == "forward":
            return (self.unsplit(self.sdpa(q_heads, k_heads, v_heads)),)
        if self.method == "gradient":
            leaves = [x.detach().requires_grad_(True) for x in (q_heads, k_heads, v_heads)]
            o = self.sdpa(*leaves)
            return self.unsplit(o.detach()), *map(self.unsplit, torch.autograd.grad(o, leaves, d_o_heads))
        if not hasattr(self, "graph"):
            leaves = [x.detach().requires_grad_(True) for x in (q_heads, k_heads, v_heads)]
            self.graph = self.sdpa(*leaves), leaves
        o, leaves = self.graph
        return tuple(map(self.unsplit, torch.autograd.grad(o, leaves, d_o_heads, retain_graph=True)))

    def call(self, library, workspace, q, k, v, d_o, *heads):
        rows = self.p["rows"]
        o, lse = self.empty_like(q), self.empty(q.shape[1], len(q))
        common = dict(self.shape(rows, rows), precision=self.PRECISIONS.index(self.p["precision"]))
        forward = library.call("attention", workspace, **common, **self.strides(q=q, k=k, v=v, o=o), lse=lse)
        if self.method == "forward":
            return forward, (o,)
        out = self.empty_like(q), self.empty_like(k), self.empty_like(v)
        backward = library.call(
            "attention_backward", workspace, **common,
            **self.strides(q=q, k=k, v=v, o=o, d_o=d_o, dq=out[0], dk=out[1], dv=out[2]), lse=lse)
        forward()
        return (in_turn(forward, backward), (o, *out)) if self.method == "gradient" else (backward, out)


# --------------------------------------------------------------------------------------------------------- optimizer


class AdamW(Operation):
    compiles = False

    def make(self, p):
        self.params = [self.normal(p["elements"]) for _ in range(p["tensors"])]
        self.grads = [self.normal(p["elements"], mean=1, std=0.1) for _ in range(p["tensors"])]
        self.copies = [x.to(BF16) for x in self.params] if p["bf16Copies"] == "true" else []
        for param, grad in zip(self.params, self.grads):
            param.grad = grad
        return ()

    @property
    def state(self):
        return self.params

    def some(self):
        """The results that are compared."""
        return self.params[0], self.params[-1], *self.copies[-1:]

    def forward(self):
        if not hasattr(self, "optimizer"):
            fused = NONE if self.device.type == "cpu" else {"fused": True, "capturable": True}
            self.optimizer = torch.optim.AdamW(self.params, lr=1e-3, weight_decay=0.01, **fused)
        with torch.no_grad():
            self.optimizer.step()
            if self.copies:
                torch._foreach_copy_(self.copies, self.params)
        return self.some()

    def call(self, library, workspace):
        moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in self.params]
        copies = self.copies or [0] * len(self.params)
        entries = library.array("saccade_adamw_tensor", [
            library.struct("saccade_adamw_tensor", param=x, grad=x.grad, m=m, v=v, param_bf16=c, count=x.numel(),
                           weight_decay=0.01) for x, (m, v), c in zip(self.params, moments, copies)])
        call = library.call("adamw", workspace, tensors=len(entries), entries=entries, lr=1e-3, beta1=0.9, beta2=0.999,
                            eps=1e-8, grad_scale=1, step=1)
        call.kept = moments
        return call, self.some()


class GradNorm(Operation):
    def make(self, p):
        return ([self.normal(p["elements"]) for _ in range(p["tensors"])],)

    def forward(self, grads):
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return norm, torch.clamp(1 / (norm + 1e-6), max=1)

    def call(self, library, workspace, grads):
        out = self.empty(1), self.empty(1)
        entries = library.array("saccade_grad_norm_tensor", [
            library.struct("saccade_grad_norm_tensor", grad=x, count=x.numel()) for x in grads])
        return library.call("grad_norm", workspace, tensors=len(entries), entries=entries, norm=out[0], scale=out[1],
                            max_norm=1), out


class GradientMoments(Operation):
    def make(self, p):
        mean = self.normal(p["size"])
        self.count = torch.tensor([10], device=self.device)
        return self.normal(p["size"]), mean, 9 * mean.double() ** 2

    @property
    def state(self):
        return (self.count, *self.inputs[1:])

    def forward(self, sample, mean, m2):
        self.count += 1
        delta = sample - mean
        mean += delta / self.count
        m2 += delta.double() * (sample - mean)
        return mean, m2

    def call(self, library, workspace, sample, mean, m2):
        return library.call("gradient_moments_update", workspace, rows=1, size=len(sample), samples=sample,
                            count=self.count, mean=mean, m2=m2), (mean, m2)


# ------------------------------------------------------------------------------------------------ layers and matrices


class RmsNorm(Operation):
    def make(self, p):
        if self.method == "forward":
            self.triton = "rms_norm"
            return self.normal(p["rows"], p["columns"]), self.normal(p["columns"], mean=1, std=0.1)
        self.leaves = (0, 1)
        return (self.normal(p["rows"], p["columns"]), self.normal(p["columns"], mean=1, std=0.1),
                self.normal(p["rows"], p["columns"]))

    def forward(self, x, weight, dy=None):
        return (F.rms_norm(x, (x.shape[1],), weight, 1e-6),)

    def by(self, x, weight, dy):
        return dy

    def call(self, library, workspace, x, weight, dy=None):
        rows, columns = x.shape
        y, rstd = self.empty_like(x), self.empty(rows)
        common = dict(rows=rows, columns=columns, x=x, weight=weight, rstd=rstd)
        forward = library.call("rms_norm", workspace, **common, y=y, eps=1e-6)
        if dy is None:
            return forward, (y,)
        dx, d_weight = self.empty_like(x), torch.zeros_like(weight)
        zero = lambda: library.check(library.library.saccade_memory_zero(
            library.handle, ctypes.c_uint64(d_weight.data_ptr()), ctypes.c_int64(4 * columns)))
        zero.extra_bytes = 0
        backward = library.call("rms_norm_backward", workspace, **common, dy=dy, dx=dx, d_weight=d_weight)
        return in_turn(forward, zero, backward), (y, dx, d_weight)


class SwiGlu(Operation):
    def make(self, p):
        self.leaves = () if self.method == "forward" else (0,)
        x = self.normal(p["rows"], 2 * p["columns"])
        return (x,) if self.method == "forward" else (x, self.normal(p["rows"], p["columns"]))

    def forward(self, x, dy=None):
        gate, up = x.chunk(2, -1)
        return (F.silu(gate) * up,)

    def by(self, x, dy):
        return dy

    def call(self, library, workspace, x, dy=None):
        rows, columns = x.shape[0], x.shape[1] // 2
        y, dx = self.empty(rows, columns), self.empty_like(x)
        forward = library.call("swiglu", workspace, rows=rows, columns=columns, x=x, y=y)
        if dy is None:
            return forward, (y,)
        backward = library.call("swiglu_backward", workspace, rows=rows, columns=columns, x=x, dy=dy, dx=dx)
        return in_turn(forward, backward), (y, dx)


class GatherRows(Operation):
    compiles = False

    def make(self, p):
        return self.normal(p["tableRows"], p["columns"]), self.index(p["count"], p["tableRows"])

    def forward(self, table, index):
        return (table.index_select(0, index),)

    def call(self, library, workspace, table, index):
        y = self.empty(len(index), table.shape[1])
        return library.call("gather_rows", workspace, count=len(index), columns=table.shape[1], x_rows=len(table), x=table,
                            index=index, y_rows=len(index), y=y), (y,)


class ScatterAddRows(Operation):
    compiles = False

    def make(self, p):
        return (self.normal(p["tableRows"], p["columns"]), self.normal(p["count"], p["columns"]),
                self.index(p["count"], p["tableRows"]))

    @property
    def state(self):
        return self.inputs[:1]

    def forward(self, table, rows, index):
        return (table.index_add_(0, index, rows),)

    def call(self, library, workspace, table, rows, index):
        return library.call("scatter_add_rows", workspace, count=len(index), columns=table.shape[1], x=rows, index=index,
                            y_rows=len(table), y=table), (table,)


class Axpby(Operation):
    def make(self, p):
        return self.normal(p["rows"], p["columns"]), self.normal(p["rows"], p["columns"])

    @property
    def state(self):
        return self.inputs[1:]

    def forward(self, x, y):
        return (y.mul_(0.5).add_(x, alpha=0.5),)

    def call(self, library, workspace, x, y):
        return library.call("axpby", workspace, rows=len(x), columns=x.shape[1], x=x, y=y, a=0.5, b=0.5), (y,)


class Copy(Axpby):
    compiles = False

    def forward(self, x, y):
        return (y.copy_(x),)

    def call(self, library, workspace, x, y):
        copy = library.library.saccade_memory_copy
        to, source, size = ctypes.c_uint64(y.data_ptr()), ctypes.c_uint64(x.data_ptr()), ctypes.c_int64(4 * x.numel())
        run = lambda: library.check(copy(library.handle, to, source, size))
        run.extra_bytes = 0
        return run, (y,)


class Gemm(Operation):
    compiles = False

    def make(self, p):
        return self.normal(p["size"], p["size"]), self.normal(p["size"], p["size"])

    def forward(self, a, b):
        return (a @ b,)

    def call(self, library, workspace, a, b):
        library.provide_products()
        n, c = len(a), self.empty_like(a)
        return library.call("gemm", workspace, m=n, n=n, k=n, a=a, b=b, c=c, alpha=1), (c,)


class Product(Gemm):
    call = None  # cuBLAS itself on the other side too

    def make(self, p):
        return self.normal(p["size"], p["size"], dtype=BF16), self.normal(p["size"], p["size"], dtype=BF16)


BY_NAME = {
    "group_advantage": GroupAdvantage, "token_log_probs": TokenLogProbs, "sampled_kl": SampledKl,
    "logit_divergence": LogitDivergence, "sample_tokens": SampleTokens, "policy_loss": PolicyLoss,
    "policy_loss_from_logits": PolicyLossFromLogits, "linear_policy_loss": LinearPolicyLoss,
    "attention_policy": AttentionPolicy, "attention_divergence": AttentionDivergence, "attention": Attention,
    "adamw": AdamW, "grad_norm": GradNorm, "gradient_moments": GradientMoments, "rms_norm": RmsNorm, "swiglu": SwiGlu,
    "gather_rows": GatherRows, "scatter_add_rows": ScatterAddRows, "axpby": Axpby, "copy": Copy, "gemm": Gemm,
    "cublas": Product,
}


def operation(name, method):
    """The class of a workload."""
    return TokenLogProbsGradient if (name, method) == ("token_log_probs", "gradient") else BY_NAME[name]
