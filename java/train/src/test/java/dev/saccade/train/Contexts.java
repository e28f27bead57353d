package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.UnsupportedException;

/**
 * Contexts that tests run on, each with its provider of matrix products. The device is the CPU, or
 * what {@code -Dsaccade.test.device=cuda:0} names.
 */
public final class Contexts {
  private static final Device DEVICE =
      Device.parse(System.getProperty("saccade.test.device", "cpu"));

  private Contexts() {}

  /**
   * @param threads of the CPU
   */
  public static Context open(int threads) {
    return open(DEVICE, threads);
  }

  /** Where the CPU alone is meant. */
  public static Context cpu(int threads) {
    return open(Device.CPU, threads);
  }

  /** Of the first GPU. */
  static Context gpu() {
    return open(Device.cuda(0), 0);
  }

  /** Whether there is a GPU that this build can use. */
  static boolean hasGpu() {
    try {
      Context.cuda(0).close();
      return true;
    } catch (UnsupportedException e) {
      return false;
    }
  }

  /** Whether the tests run on a GPU. */
  public static boolean onGpu() {
    return DEVICE.kind() == Device.Kind.CUDA;
  }

  private static Context open(Device device, int threads) {
    boolean cpu = device.kind() == Device.Kind.CPU;
    Context context = Context.builder().device(device).threads(cpu ? threads : 0).build();
    MatrixProducts.provideTo(context);
    return context;
  }
}
