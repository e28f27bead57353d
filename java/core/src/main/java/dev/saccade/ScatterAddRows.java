package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_scatter_add_rows_args;

/**
 * Adds rows by index, f32: y[index[i]] += x[i], the adjoint of {@link GatherRows}; gradients of
 * embeddings.
 *
 * <p>Rows of equal index are added in the order of i: the result does not depend on the thread
 * count. An index that is not a row of y is skipped.
 */
public final class ScatterAddRows {
  private ScatterAddRows() {}

  /**
   * Adds into a tensor that the caller gives.
   *
   * @param x f32[N, C]; rows may have a stride
   * @param index i32[N]
   * @param y in and out, f32[Y, C]; rows may have a stride
   * @throws InvalidArgumentException if a type or shape is wrong
   */
  public static void add(Context context, Tensor x, Tensor index, Tensor y) {
    try (Call call = context.begin("scatter_add_rows")) {
      var args = call.args(saccade_scatter_add_rows_args.class, saccade_scatter_add_rows_args::new);
      args.x(call.strided("x", x, Types.F32, -1, -1));
      long count = x.shape(0);
      long columns = x.shape(1);
      args.count(count)
          .columns(columns)
          .x_stride(x.stride(0))
          .index(call.i32("index", index, count))
          .y(call.strided("y", y, Types.F32, -1, columns))
          .y_rows(y.shape(0))
          .y_stride(y.stride(0));
      call.invoke(Saccade.saccade_scatter_add_rows(context.handle(), args));
    }
  }
}
