package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_attention_args;
import dev.saccade.binding.saccade_attention_backward_args;

/**
 * Causal grouped-query attention over packed sequences, f32: o = softmax(scale·q·kᵀ)·v. Query head
 * h reads key head h/(Hq/Hkv).
 *
 * <p>Row i of a sequence with nq queries and nk keys sees keys 0 … nk − nq + i. A row that sees
 * nothing gives zeros.
 */
public final class Attention {
  private Attention() {}

  /**
   * Queries, keys and values of packed sequences; rows and heads may have strides.
   *
   * @param q f32[Tq, Hq, D], D up to 256
   * @param k f32[Tk, Hkv, D]
   * @param v f32[Tk, Hkv, D]
   * @param offsetsQ i32[S+1]
   * @param offsetsK i32[S+1]
   * @param lengthsK i32[S] makes a cache of fixed capacity: of the region of sequence s only the
   *     first lengthsK[s] rows are its keys. Null: all of them. Forward only
   * @param maxKeys length of the longest key sequence
   * @param scale multiplies q·k
   * @param precision of all products, of probabilities and their gradients too; the CPU takes f32
   *     only, and TF32 is computed as f32
   */
  public record Input(
      Tensor q,
      Tensor k,
      Tensor v,
      Tensor offsetsQ,
      Tensor offsetsK,
      Tensor lengthsK,
      long maxKeys,
      float scale,
      Precision precision) {
    /** With products in f32. */
    public Input(
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor offsetsQ,
        Tensor offsetsK,
        Tensor lengthsK,
        long maxKeys,
        float scale) {
      this(q, k, v, offsetsQ, offsetsK, lengthsK, maxKeys, scale, Precision.F32);
    }
  }

  /**
   * Computes the attention.
   *
   * @param o out, f32[Tq, Hq, D]; rows and heads may have strides
   * @param lse out, f32[Hq, Tq], what {@link #backward} needs; or null
   * @throws InvalidArgumentException if a type, shape or offset is wrong
   * @throws UnsupportedException if the context has not the precision
   */
  public static void forward(Context context, Input input, Tensor o, Tensor lse) {
    try (Call call = context.begin("attention")) {
      var args = call.args(saccade_attention_args.class, saccade_attention_args::new);
      Shape shape = Shape.of(call, input);
      Tensor q = input.q();
      Tensor k = input.k();
      Tensor v = input.v();
      call.check("o", o, Types.F32, shape.rows, shape.heads, shape.dim);
      args.rows(shape.rows)
          .keys(shape.keys)
          .sequences(shape.sequences)
          .heads(shape.heads)
          .kv_heads(shape.kvHeads)
          .head_dim(shape.dim)
          .q(q.address())
          .q_row_stride(q.stride(0))
          .q_head_stride(q.stride(1))
          .k(k.address())
          .k_row_stride(k.stride(0))
          .k_head_stride(k.stride(1))
          .v(v.address())
          .v_row_stride(v.stride(0))
          .v_head_stride(v.stride(1))
          .offsets_q(input.offsetsQ().address())
          .offsets_k(call.i32("offsets_k", input.offsetsK(), shape.sequences + 1))
          .lengths_k(call.optionalI32("lengths_k", input.lengthsK(), shape.sequences))
          .max_keys(input.maxKeys())
          .scale(input.scale())
          .precision(input.precision().code())
          .o(o.address())
          .o_row_stride(o.stride(0))
          .o_head_stride(o.stride(1))
          .lse(call.optionalF32("lse", lse, shape.heads, shape.rows));
      args.workspace(
          call.workspace(
              Saccade.saccade_attention_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_attention(context.handle(), args));
    }
  }

  /**
   * Gradients of q, k and v.
   *
   * @param input as in the forward pass, without lengthsK
   * @param o f32[Tq, Hq, D], the result of the forward pass
   * @param lse f32[Hq, Tq], of the forward pass
   * @param dO f32[Tq, Hq, D]
   * @param dq out, f32[Tq, Hq, D]
   * @param dk out, f32[Tk, Hkv, D]
   * @param dv out, f32[Tk, Hkv, D]
   * @throws InvalidArgumentException if a type, shape or offset is wrong
   * @throws UnsupportedException if the context has not the precision
   */
  public static void backward(
      Context context,
      Input input,
      Tensor o,
      Tensor lse,
      Tensor dO,
      Tensor dq,
      Tensor dk,
      Tensor dv) {
    try (Call call = context.begin("attention_backward")) {
      var args =
          call.args(saccade_attention_backward_args.class, saccade_attention_backward_args::new);
      Shape shape = Shape.of(call, input);
      if (input.lengthsK() != null) {
        throw call.invalid("lengths_k", "null: a cache has no gradient", "a tensor");
      }
      Tensor q = input.q();
      Tensor k = input.k();
      Tensor v = input.v();
      call.check("o", o, Types.F32, shape.rows, shape.heads, shape.dim);
      call.check("d_o", dO, Types.F32, shape.rows, shape.heads, shape.dim);
      call.check("dq", dq, Types.F32, shape.rows, shape.heads, shape.dim);
      call.check("dk", dk, Types.F32, shape.keys, shape.kvHeads, shape.dim);
      call.check("dv", dv, Types.F32, shape.keys, shape.kvHeads, shape.dim);
      args.rows(shape.rows)
          .keys(shape.keys)
          .sequences(shape.sequences)
          .heads(shape.heads)
          .kv_heads(shape.kvHeads)
          .head_dim(shape.dim)
          .q(q.address())
          .q_row_stride(q.stride(0))
          .q_head_stride(q.stride(1))
          .k(k.address())
          .k_row_stride(k.stride(0))
          .k_head_stride(k.stride(1))
          .v(v.address())
          .v_row_stride(v.stride(0))
          .v_head_stride(v.stride(1))
          .offsets_q(input.offsetsQ().address())
          .offsets_k(call.i32("offsets_k", input.offsetsK(), shape.sequences + 1))
          .max_keys(input.maxKeys())
          .scale(input.scale())
          .precision(input.precision().code())
          .o(o.address())
          .o_row_stride(o.stride(0))
          .o_head_stride(o.stride(1))
          .lse(call.f32("lse", lse, shape.heads, shape.rows))
          .d_o(dO.address())
          .d_o_row_stride(dO.stride(0))
          .d_o_head_stride(dO.stride(1))
          .dq(dq.address())
          .dq_row_stride(dq.stride(0))
          .dq_head_stride(dq.stride(1))
          .dk(dk.address())
          .dk_row_stride(dk.stride(0))
          .dk_head_stride(dk.stride(1))
          .dv(dv.address())
          .dv_row_stride(dv.stride(0))
          .dv_head_stride(dv.stride(1));
      args.workspace(
          call.workspace(
              Saccade.saccade_attention_backward_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_attention_backward(context.handle(), args));
    }
  }

  private record Shape(long rows, long keys, long sequences, long heads, long kvHeads, long dim) {
    static Shape of(Call call, Input input) {
      Tensor q = call.check("q", input.q(), Types.F32, -1, -1, -1);
      Tensor k = call.check("k", input.k(), Types.F32, -1, -1, q.shape(2));
      call.check("v", input.v(), Types.F32, k.shape(0), k.shape(1), k.shape(2));
      long sequences = call.sequences("offsets_q", input.offsetsQ(), Types.I32);
      return new Shape(q.shape(0), k.shape(0), sequences, q.shape(1), k.shape(1), q.shape(2));
    }
  }
}
