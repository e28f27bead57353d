package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_attention_policy_args;
import java.util.Set;

/**
 * The attention distribution of a layer as a policy over keys: where each query looks (Reinforced
 * Attention Learning, arXiv 2602.04884).
 *
 * <p>With P_h the causal softmax of head h over the visible keys, the policy of a row is the mean
 * of P_h over the heads in range, restricted to a support and renormalised. Its <i>mass</i> is what
 * the support held before the renormalisation. A policy whose support is empty or holds less than
 * 1e-20 is dead: entropy and mass 0.
 *
 * <p>Sequences are packed: {@code offsetsQ} and {@code offsetsK}, i32[S+1], say which rows of q and
 * k belong to sequence s. Row i of a sequence with nq queries and nk keys sits at position nk − nq
 * + i and sees the keys up to it, so that q may hold the response alone while k holds the whole
 * sequence.
 */
public final class AttentionPolicy {
  private AttentionPolicy() {}

  /** Keys that a policy is over. */
  public enum Support {
    /** Every visible key. */
    ALL(Saccade.SACCADE_SUPPORT_ALL),
    /** Every visible key but the row's own position. */
    PREVIOUS(Saccade.SACCADE_SUPPORT_PREVIOUS),
    /** The visible keys of a range given for each sequence. */
    RANGES(Saccade.SACCADE_SUPPORT_RANGES);

    private final int code;

    Support(int code) {
      this.code = code;
    }

    int code() {
      return code;
    }
  }

  /** How heads become policies. */
  public enum Reduction {
    /** One policy a row: the mean over the heads. */
    MEAN(Saccade.SACCADE_REDUCTION_MEAN),
    /** One policy a head; results of a row are means over its heads, dead ones counting 0. */
    NONE(Saccade.SACCADE_REDUCTION_NONE);

    private final int code;

    Reduction(int code) {
      this.code = code;
    }

    int code() {
      return code;
    }
  }

  /**
   * @param scale multiplies q·k; NaN, the default, for 1/√D
   * @param support keys that the policy is over
   * @param reduction how heads become policies
   * @param headBegin first head in range
   * @param headEnd end of the range; -1, the default, for all heads
   * @param compact with {@link Support#RANGES}: column c of a map is key begin+c of the sequence
   *     instead of key c
   */
  public record Options(
      float scale,
      Support support,
      Reduction reduction,
      int headBegin,
      int headEnd,
      boolean compact) {
    /** Scale 1/√D, PREVIOUS, MEAN over all heads: the policy of RAL. */
    public static final Options DEFAULT =
        new Options(Float.NaN, Support.PREVIOUS, Reduction.MEAN, 0, -1, false);

    public Options withScale(float scale) {
      return new Options(scale, support, reduction, headBegin, headEnd, compact);
    }

    public Options withSupport(Support support) {
      return new Options(scale, support, reduction, headBegin, headEnd, compact);
    }

    public Options withReduction(Reduction reduction) {
      return new Options(scale, support, reduction, headBegin, headEnd, compact);
    }

    public Options withHeads(int headBegin, int headEnd) {
      return new Options(scale, support, reduction, headBegin, headEnd, compact);
    }

    public Options withCompact(boolean compact) {
      return new Options(scale, support, reduction, headBegin, headEnd, compact);
    }

    float scaleFor(long headDim) {
      return Float.isNaN(scale) ? (float) (1 / Math.sqrt(headDim)) : scale;
    }

    int headEndFor(long heads) {
      return headEnd == -1 ? (int) Math.min(heads, Integer.MAX_VALUE) : headEnd;
    }
  }

  /**
   * Queries and keys of packed sequences.
   *
   * @param q f32, bf16 or f16 [Tq, Hq, D]; rows and heads may have strides
   * @param k [Tk, Hkv, D] of the type of q, Hkv a divisor of Hq
   * @param offsetsQ i32[S+1]
   * @param offsetsK i32[S+1]
   * @param maxKeys length of the longest key sequence
   * @param supportRanges i32[S, 2], keys [begin, end) within the sequence; for {@link
   *     Support#RANGES}, else null
   */
  public record Input(
      Tensor q, Tensor k, Tensor offsetsQ, Tensor offsetsK, long maxKeys, Tensor supportRanges) {}

  /**
   * Results; each may be null where it is not wanted.
   *
   * @param entropy f32[Tq], nats
   * @param mass f32[Tq]
   * @param lse f32[Hq, Tq], log-normaliser of the scaled scores, all heads; -inf where nothing is
   *     visible
   * @param map f32 or bf16 [Tq, ld], the policy itself, 0 off the support; MEAN only. ld is at
   *     least {@code maxKeys}, or the widest range when compact. A bf16 map carries a noise floor
   *     of JSD(p, bf16(p)) ≈ 3e-7
   */
  public record Outputs(Tensor entropy, Tensor mass, Tensor lse, Tensor map) {}

  /**
   * Computes into tensors that the caller gives.
   *
   * @throws InvalidArgumentException if a type, shape, offset or option is wrong
   */
  public static void forward(Context context, Input input, Options options, Outputs outputs) {
    try (Call call = context.begin("attention_policy")) {
      var args = call.args(saccade_attention_policy_args.class, saccade_attention_policy_args::new);
      Tensor q = call.check("q", input.q(), DType.FLOAT, -1, -1, -1);
      Tensor k = call.check("k", input.k(), Set.of(q.dtype()), -1, -1, q.shape(2));
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
          .compact(options.compact() ? 1 : 0)
          .offsets_q(input.offsetsQ().address())
          .offsets_k(call.i32("offsets_k", input.offsetsK(), sequences + 1))
          .support_ranges(call.optionalI32("support_ranges", input.supportRanges(), sequences, 2))
          .max_keys(maxKeys("attention_policy", input))
          .scale(options.scaleFor(q.shape(2)))
          .support(options.support().code())
          .reduction(options.reduction().code())
          .head_begin(options.headBegin())
          .head_end(options.headEndFor(heads))
          .entropy(call.optionalF32("entropy", outputs.entropy(), rows))
          .mass(call.optionalF32("mass", outputs.mass(), rows))
          .lse(call.optionalF32("lse", outputs.lse(), heads, rows));
      if (outputs.map() != null) {
        Tensor map = map(call, "map", outputs.map(), rows, input.maxKeys());
        args.map(map.address()).map_stride(map.shape(1)).map_dtype(map.dtype().code());
      }
      args.workspace(
          call.workspace(
              Saccade.saccade_attention_policy_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_attention_policy(context.handle(), args));
    }
  }

  /** Checks what maps are sized by. */
  static long maxKeys(String operation, Input input) {
    if (input.maxKeys() < 0 || input.maxKeys() > Integer.MAX_VALUE) {
      throw new InvalidArgumentException(
          operation, "max_keys", "0 to 2147483647", Long.toString(input.maxKeys()));
    }
    return input.maxKeys();
  }

  /** Checks a map: its rows follow each other, since all their columns are read or written. */
  static Tensor map(Call call, String name, Tensor map, long rows, long maxKeys) {
    call.dense(name, map, Types.MAP, rows, -1);
    if (map.shape(1) == 0 && maxKeys > 0) {
      throw call.invalid(name, "a column for every key", map.describe());
    }
    return map;
  }

  /**
   * Computes entropy, mass, lse and, for MEAN, an f32 map of {@code maxKeys} columns, into new
   * tensors of the scope.
   */
  public static Outputs forward(Scope scope, Input input, Options options) {
    String operation = "attention_policy";
    long[] shape = Call.shapeOf(scope, operation, "q", input.q(), DType.FLOAT, -1, -1, -1);
    long rows = shape[0];
    boolean mean = options.reduction() == Reduction.MEAN;
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, rows),
            Tensor.empty(scope, DType.F32, shape[1], rows),
            mean ? Tensor.empty(scope, DType.F32, rows, maxKeys(operation, input)) : null);
    forward(scope.context(), input, options, outputs);
    return outputs;
  }
}
