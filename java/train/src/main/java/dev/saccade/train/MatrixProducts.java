package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.Device;

/** The provider of matrix products that a device has: OpenBLAS for the CPU, cuBLAS for GPUs. */
public final class MatrixProducts {
  private MatrixProducts() {}

  /**
   * Gives {@code context} the provider of its device.
   *
   * @throws dev.saccade.UnsupportedException if the provider's library lacks something or, on a
   *     GPU, is not there
   * @throws UnsatisfiedLinkError if, on the CPU, the preset's native library is not on the class
   *     path
   */
  public static void provideTo(Context context) {
    if (context.device().kind() == Device.Kind.CUDA) {
      CuBlas.provideTo(context);
    } else {
      OpenBlas.provideTo(context);
    }
  }
}
