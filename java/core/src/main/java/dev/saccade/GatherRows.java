package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_gather_rows_args;

/**
 * Copies rows by index, f32: y[outIndex[i]] = x[index[i]], or += where it accumulates. Embedding
 * look-up, packing, cache writes. {@link ScatterAddRows} is its adjoint.
 *
 * <p>An index of -1 makes the row 0, or leaves it where it accumulates; any other index outside x
 * makes it NaN. Where outIndex is not a row of y (-1 by convention), nothing is written. Rows of y
 * that outIndex does not name are not touched.
 */
public final class GatherRows {
  private GatherRows() {}

  /**
   * Computes into a tensor that the caller gives.
   *
   * @param x f32[X, C]; rows may have a stride
   * @param index i32[N], or null for 0, 1, 2, …
   * @param outIndex i32[N] of different values, or null for 0, 1, 2, …
   * @param accumulate whether the rows are added to what y holds
   * @param y in and out, f32[Y, C]; rows may have a stride. Without an index N is X, or the size of
   *     the other index
   * @throws InvalidArgumentException if a type or shape is wrong, or N rows do not fit where there
   *     is no index
   */
  public static void gather(
      Context context, Tensor x, Tensor index, Tensor outIndex, boolean accumulate, Tensor y) {
    try (Call call = context.begin("gather_rows")) {
      var args = call.args(saccade_gather_rows_args.class, saccade_gather_rows_args::new);
      args.x(call.strided("x", x, Types.F32, -1, -1));
      long columns = x.shape(1);
      args.index(call.optionalI32("index", index, -1));
      args.out_index(call.optionalI32("out_index", outIndex, index == null ? -1 : index.size()));
      long count = index != null ? index.size() : outIndex != null ? outIndex.size() : x.shape(0);
      args.count(count)
          .columns(columns)
          .x_rows(x.shape(0))
          .x_stride(x.stride(0))
          .y(call.strided("y", y, Types.F32, -1, columns))
          .y_rows(y.shape(0))
          .y_stride(y.stride(0))
          .accumulate(accumulate ? 1 : 0);
      call.invoke(Saccade.saccade_gather_rows(context.handle(), args));
    }
  }

  /**
   * The rows of x that {@code index}, i32[N], names, in a new tensor f32[N, C] of {@code scope}.
   */
  public static Tensor gather(Scope scope, Tensor x, Tensor index) {
    long columns = Call.shapeOf(scope, "gather_rows", "x", x, Types.F32, -1, -1)[1];
    long count = Call.shapeOf(scope, "gather_rows", "index", index, Types.I32, -1)[0];
    Tensor y = Tensor.empty(scope, DType.F32, count, columns);
    gather(scope.context(), x, index, null, false, y);
    return y;
  }
}
