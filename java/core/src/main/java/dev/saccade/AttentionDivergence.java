package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_attention_divergence_args;
import java.util.EnumSet;
import java.util.Set;

/**
 * Divergence of a reference from the attention policy, its entropy term, and the gradient of both
 * with respect to q and k (Reinforced Attention Learning, arXiv 2602.04884): loss = Σ weight·D − Σ
 * entropyWeight·entropy over the rows.
 *
 * <p>The policy is that of {@link AttentionPolicy}; the reference is detached. A row without a
 * reference (an all-zero row of a map, a dead policy, index -1) has divergence 0 and no gradient
 * from it. JSD has no gradient where policy and reference agree.
 */
public final class AttentionDivergence {
  private AttentionDivergence() {}

  /** What the policy is compared with. */
  public sealed interface Reference {
    /**
     * A stored map, used as it is; for {@link AttentionPolicy.Reduction#MEAN}.
     *
     * @param map f32 or bf16 [Tq, ld], as {@link AttentionPolicy.Outputs#map}
     */
    record Map(Tensor map) implements Reference {}

    /**
     * The policy of other queries and keys over the same sequences: an old policy, or a teacher of
     * another size.
     *
     * @param q [Tq, H', D'] of the type of the policy's q
     * @param k [Tk, Hkv', D']
     * @param scale multiplies q·k; NaN for 1/√D'
     * @param headBegin first head in range
     * @param headEnd end of the range; -1 for all heads
     * @param lse f32[H', Tq], as {@link Weights#lse}; or null
     */
    record QueriesKeys(Tensor q, Tensor k, float scale, int headBegin, int headEnd, Tensor lse)
        implements Reference {
      /** All heads, scale 1/√D'. */
      public QueriesKeys(Tensor q, Tensor k) {
        this(q, k, Float.NaN, 0, -1, null);
      }
    }

    /**
     * A one-hot reference: with FORWARD_KL the divergence is −log p of that key, the score-function
     * gradient of hard attention.
     *
     * @param index i32[Tq], a key of the sequence, or -1 for none
     */
    record Index(Tensor index) implements Reference {}
  }

  /**
   * @param policy how heads become a policy
   * @param kind the divergence
   * @param beta of JSD, inside (0, 1)
   */
  public record Options(AttentionPolicy.Options policy, Divergence kind, float beta) {
    /** JSD with β = ½ of {@link AttentionPolicy.Options#DEFAULT}: RAL's. */
    public static final Options DEFAULT =
        new Options(AttentionPolicy.Options.DEFAULT, Divergence.JSD, 0.5f);

    public Options withPolicy(AttentionPolicy.Options policy) {
      return new Options(policy, kind, beta);
    }

    public Options withKind(Divergence kind) {
      return new Options(policy, kind, beta);
    }

    public Options withBeta(float beta) {
      return new Options(policy, kind, beta);
    }
  }

  /**
   * Weights of the rows in the loss; each may be null, for 0.
   *
   * @param weight f32[Tq], of the divergence
   * @param entropyWeight f32[Tq], of the entropy
   * @param lse f32[Hq, Tq] of {@link AttentionPolicy}, to save work: its rounding is not in the
   *     results; or null
   * @param gradOutput f32[1] that multiplies the gradients; or null, for 1
   */
  public record Weights(Tensor weight, Tensor entropyWeight, Tensor lse, Tensor gradOutput) {
    /** Weights of the divergence alone. */
    public static Weights of(Tensor weight) {
      return new Weights(weight, null, null, null);
    }
  }

  /**
   * Results; each may be null where it is not wanted, dq and dk together.
   *
   * @param loss f32[1]
   * @param divergence f32[Tq]
   * @param entropy f32[Tq]
   * @param mass f32[Tq]
   * @param dq [Tq, Hq, D] of the type of q, or f32
   * @param dk [Tk, Hkv, D] of the type of dq
   * @param dscoreSq f32[Hq, Tq]: Σ over keys of the squared gradient with respect to the scaled
   *     scores
   */
  public record Outputs(
      Tensor loss,
      Tensor divergence,
      Tensor entropy,
      Tensor mass,
      Tensor dq,
      Tensor dk,
      Tensor dscoreSq) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @throws InvalidArgumentException if a type, shape, offset or option is wrong
   */
  public static void forwardBackward(
      Context context,
      AttentionPolicy.Input input,
      Reference reference,
      Weights weights,
      Options options,
      Outputs outputs) {
    try (Call call = context.begin("attention_divergence")) {
      var args =
          call.args(
              saccade_attention_divergence_args.class, saccade_attention_divergence_args::new);
      Tensor q = call.check("q", input.q(), DType.FLOAT, -1, -1, -1);
      Tensor k = call.check("k", input.k(), Set.of(q.dtype()), -1, -1, q.shape(2));
      AttentionPolicy.Options policy = options.policy();
      long rows = q.shape(0);
      long heads = q.shape(1);
      long sequences = call.sequences("offsets_q", input.offsetsQ(), Types.I32);
      args.rows(rows)
          .keys(k.shape(0))
          .sequences(sequences)
          .heads(heads)
          .kv_heads(k.shape(1))
          .head_dim(q.shape(2))
          .q(q.address())
          .q_row_stride(q.stride(0))
          .q_head_stride(q.stride(1))
          .k(k.address())
          .k_row_stride(k.stride(0))
          .k_head_stride(k.stride(1))
          .dtype(q.dtype().code())
          .compact(policy.compact() ? 1 : 0)
          .offsets_q(input.offsetsQ().address())
          .offsets_k(call.i32("offsets_k", input.offsetsK(), sequences + 1))
          .support_ranges(call.optionalI32("support_ranges", input.supportRanges(), sequences, 2))
          .max_keys(AttentionPolicy.maxKeys("attention_divergence", input))
          .scale(policy.scaleFor(q.shape(2)))
          .support(policy.support().code())
          .reduction(policy.reduction().code())
          .head_begin(policy.headBegin())
          .head_end(policy.headEndFor(heads))
          .lse(call.optionalF32("lse", weights.lse(), heads, rows))
          .weight(call.optionalF32("weight", weights.weight(), rows))
          .entropy_weight(call.optionalF32("entropy_weight", weights.entropyWeight(), rows))
          .grad_output(call.optionalF32("grad_output", weights.gradOutput(), 1))
          .kind(options.kind().code())
          .beta(options.beta())
          .loss(call.optionalF32("loss", outputs.loss(), 1))
          .divergence(call.optionalF32("divergence", outputs.divergence(), rows))
          .entropy(call.optionalF32("entropy", outputs.entropy(), rows))
          .mass(call.optionalF32("mass", outputs.mass(), rows));
      reference(call, args, reference, q, k);
      if (outputs.dq() != null || outputs.dk() != null || outputs.dscoreSq() != null) {
        gradients(call, args, outputs, q, k);
      }
      args.workspace(
          call.workspace(
              Saccade.saccade_attention_divergence_workspace(
                  context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_attention_divergence(context.handle(), args));
    }
  }

  private static void reference(
      Call call, saccade_attention_divergence_args args, Reference reference, Tensor q, Tensor k) {
    long rows = q.shape(0);
    if (reference instanceof Reference.Map stored) {
      Tensor map = AttentionPolicy.map(call, "ref", stored.map(), rows, args.max_keys());
      args.ref(map.address()).ref_stride(map.shape(1)).ref_dtype(map.dtype().code());
    } else if (reference instanceof Reference.Index sampled) {
      args.ref_index(call.i32("ref_index", sampled.index(), rows));
    } else if (reference instanceof Reference.QueriesKeys other) {
      Tensor refQ = call.check("ref_q", other.q(), Set.of(q.dtype()), rows, -1, -1);
      Tensor refK =
          call.check("ref_k", other.k(), Set.of(q.dtype()), k.shape(0), -1, refQ.shape(2));
      AttentionPolicy.Options heads =
          AttentionPolicy.Options.DEFAULT
              .withScale(other.scale())
              .withHeads(other.headBegin(), other.headEnd());
      args.ref_q(refQ.address())
          .ref_q_row_stride(refQ.stride(0))
          .ref_q_head_stride(refQ.stride(1))
          .ref_k(refK.address())
          .ref_k_row_stride(refK.stride(0))
          .ref_k_head_stride(refK.stride(1))
          .ref_heads(refQ.shape(1))
          .ref_kv_heads(refK.shape(1))
          .ref_head_dim(refQ.shape(2))
          .ref_scale(heads.scaleFor(refQ.shape(2)))
          .ref_head_begin(heads.headBegin())
          .ref_head_end(heads.headEndFor(refQ.shape(1)))
          .ref_lse(call.optionalF32("ref_lse", other.lse(), refQ.shape(1), rows));
    } else {
      throw call.invalid("reference", "a map, queries and keys, or an index", "null");
    }
  }

  private static void gradients(
      Call call, saccade_attention_divergence_args args, Outputs outputs, Tensor q, Tensor k) {
    Tensor dq =
        call.check(
            "dq",
            outputs.dq(),
            EnumSet.of(q.dtype(), DType.F32),
            q.shape(0),
            q.shape(1),
            q.shape(2));
    Tensor dk =
        call.check("dk", outputs.dk(), Set.of(dq.dtype()), k.shape(0), k.shape(1), k.shape(2));
    args.dq(dq.address())
        .dq_row_stride(dq.stride(0))
        .dq_head_stride(dq.stride(1))
        .dk(dk.address())
        .dk_row_stride(dk.stride(0))
        .dk_head_stride(dk.stride(1))
        .grad_dtype(dq.dtype().code())
        .dscore_sq(call.optionalF32("dscore_sq", outputs.dscoreSq(), q.shape(1), q.shape(0)));
  }

  /**
   * Computes everything but dscoreSq, into new tensors of the scope; gradients have the type of q.
   */
  public static Outputs forwardBackward(
      Scope scope,
      AttentionPolicy.Input input,
      Reference reference,
      Weights weights,
      Options options) {
    String operation = "attention_divergence";
    Tensor q = input.q();
    Tensor k = input.k();
    long[] shape = Call.shapeOf(scope, operation, "q", q, DType.FLOAT, -1, -1, -1);
    long[] shapeOfK = Call.shapeOf(scope, operation, "k", k, Set.of(q.dtype()), -1, -1, shape[2]);
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, 1),
            Tensor.empty(scope, DType.F32, shape[0]),
            Tensor.empty(scope, DType.F32, shape[0]),
            Tensor.empty(scope, DType.F32, shape[0]),
            Tensor.empty(scope, q.dtype(), shape),
            Tensor.empty(scope, k.dtype(), shapeOfK),
            null);
    forwardBackward(scope.context(), input, reference, weights, options, outputs);
    return outputs;
  }
}
