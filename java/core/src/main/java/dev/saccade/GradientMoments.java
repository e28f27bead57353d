package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_gradient_moments_merge_args;
import dev.saccade.binding.saccade_gradient_moments_report_args;
import dev.saccade.binding.saccade_gradient_moments_update_args;

/**
 * Mean and variance of gradient samples, element by element, kept as samples arrive: how much of a
 * gradient is signal and how much is noise.
 *
 * <p>Samples are added, several at a time or one, and states of disjoint samples are merged (Chan),
 * each in one pass. NaN in an element of a sample stays in that element.
 */
public final class GradientMoments {
  private GradientMoments() {}

  /**
   * What is kept of the samples so far. Where the count is 0 the others may hold anything; a
   * negative count stays negative and makes all results NaN.
   *
   * @param count i64[1], number of samples
   * @param mean f32 of the shape of the samples
   * @param m2 f64 of that shape, Σ (x − mean)²
   */
  public record State(Tensor count, Tensor mean, Tensor m2) {
    /** The state of no samples, for samples of a shape. */
    public static State zeros(Scope scope, long... shape) {
      return new State(
          Tensor.zeros(scope, DType.I64, 1),
          Tensor.zeros(scope, DType.F32, shape),
          Tensor.zeros(scope, DType.F64, shape));
    }
  }

  /**
   * What a state says of segments of the gradient; each may be null where it is not wanted. With
   * fewer than two samples trace, signal and snr are NaN, as is the snr of an empty segment.
   *
   * @param meanSq f32[S], ‖mean‖²
   * @param trace f32[S], Σ m2 / (count − 1): trace of the covariance of one sample
   * @param signal f32[S], meanSq − trace/count: ‖E g‖² without bias, which may be negative
   * @param snr f32[S], signal / trace
   */
  public record Outputs(Tensor meanSq, Tensor trace, Tensor signal, Tensor snr) {}

  /**
   * Adds one sample.
   *
   * @param state changed in place; dense
   * @param sample f32, bf16 or f16 of the shape of the state; dense
   * @throws InvalidArgumentException if a type or shape is wrong, or tensors overlap
   */
  public static void update(Context context, State state, Tensor sample) {
    try (Call call = context.begin("gradient_moments_update")) {
      long[] shape = check(call, state);
      call.dense("samples", sample, DType.FLOAT, shape);
      update(context, call, state, sample, 1, 0, 0);
    }
  }

  /**
   * Adds samples: the state is read and written once for all of them.
   *
   * @param state of n elements, changed in place; dense, of any shape: elements count row by row
   * @param samples f32, bf16 or f16 [R, n]; rows may have a stride
   * @param sum receives the sum of the samples, f32[n], whatever the state; null where it is not
   *     wanted
   * @throws InvalidArgumentException if a type or shape is wrong, or tensors overlap
   */
  public static void update(Context context, State state, Tensor samples, Tensor sum) {
    try (Call call = context.begin("gradient_moments_update")) {
      check(call, state);
      long size = state.mean().size();
      call.strided("samples", samples, DType.FLOAT, -1, size);
      long to = call.optionalF32("sum", sum, size);
      update(context, call, state, samples, samples.shape(0), samples.stride(0), to);
    }
  }

  private static void update(
      Context context, Call call, State state, Tensor samples, long rows, long stride, long sum) {
    var args =
        call.args(
            saccade_gradient_moments_update_args.class, saccade_gradient_moments_update_args::new);
    args.rows(rows)
        .size(state.mean().size())
        .samples(samples.address())
        .samples_stride(stride)
        .samples_dtype(samples.dtype().code())
        .count(state.count().address())
        .mean(state.mean().address())
        .m2(state.m2().address())
        .sum(sum);
    call.invoke(Saccade.saccade_gradient_moments_update(context.handle(), args));
  }

  /**
   * Adds the samples of another state.
   *
   * @param state changed in place; dense
   * @param other of the same shape, and disjoint memory; stays as it is
   * @throws InvalidArgumentException if a type or shape is wrong, or tensors overlap
   */
  public static void merge(Context context, State state, State other) {
    try (Call call = context.begin("gradient_moments_merge")) {
      long[] shape = check(call, state);
      call.dense("other_count", other.count(), Types.I64, 1);
      call.dense("other_mean", other.mean(), Types.F32, shape);
      call.dense("other_m2", other.m2(), Types.F64, shape);
      var args =
          call.args(
              saccade_gradient_moments_merge_args.class, saccade_gradient_moments_merge_args::new);
      args.size(state.mean().size())
          .other_count(other.count().address())
          .other_mean(other.mean().address())
          .other_m2(other.m2().address())
          .count(state.count().address())
          .mean(state.mean().address())
          .m2(state.m2().address());
      call.invoke(Saccade.saccade_gradient_moments_merge(context.handle(), args));
    }
  }

  /**
   * Reports on segments, into tensors that the caller gives.
   *
   * @param state stays as it is; dense, of any shape: elements count row by row
   * @param offsets i64[S+1], from 0, non-decreasing: segment s is elements offsets[s] …
   *     offsets[s+1]−1; elements behind the last are in none
   * @throws InvalidArgumentException if a type, shape or offset is wrong, or an output overlaps an
   *     input
   */
  public static void report(Context context, State state, Tensor offsets, Outputs outputs) {
    try (Call call = context.begin("gradient_moments_report")) {
      check(call, state);
      long segments = call.sequences("offsets", offsets, Types.I64);
      var args =
          call.args(
              saccade_gradient_moments_report_args.class,
              saccade_gradient_moments_report_args::new);
      args.size(state.mean().size())
          .segments(segments)
          .count(state.count().address())
          .mean(state.mean().address())
          .m2(state.m2().address())
          .offsets(offsets.address())
          .mean_sq(call.optionalF32("mean_sq", outputs.meanSq(), segments))
          .trace(call.optionalF32("trace", outputs.trace(), segments))
          .signal(call.optionalF32("signal", outputs.signal(), segments))
          .snr(call.optionalF32("snr", outputs.snr(), segments));
      args.workspace(
          call.workspace(
              Saccade.saccade_gradient_moments_report_workspace(
                  context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_gradient_moments_report(context.handle(), args));
    }
  }

  /** Reports on segments, into new tensors of {@code scope}. */
  public static Outputs report(Scope scope, State state, Tensor offsets) {
    String operation = "gradient_moments_report";
    long offset = Call.shapeOf(scope, operation, "offsets", offsets, Types.I64, -1)[0];
    long segments = Math.max(0, offset - 1);
    Outputs outputs =
        new Outputs(
            Tensor.empty(scope, DType.F32, segments),
            Tensor.empty(scope, DType.F32, segments),
            Tensor.empty(scope, DType.F32, segments),
            Tensor.empty(scope, DType.F32, segments));
    report(scope.context(), state, offsets, outputs);
    return outputs;
  }

  /** Returns the shape of the samples. */
  private static long[] check(Call call, State state) {
    long[] shape = call.ofAnyShape("mean", state.mean(), Types.F32).shape();
    call.dense("count", state.count(), Types.I64, 1);
    call.dense("m2", state.m2(), Types.F64, shape);
    return shape;
  }
}
