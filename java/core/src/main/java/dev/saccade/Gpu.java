package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_gpu;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.bytedeco.javacpp.BytePointer;

/**
 * A GPU of this machine, whether this library can use it or not.
 *
 * @param device what {@link Context.Builder#device} takes
 * @param name the maker's name of it
 * @param capability compute capability, such as 9.0; contexts need 8.0 or more
 * @param processors multiprocessors
 * @param memory bytes
 * @param cuda the newest version of CUDA that the driver serves, such as 13.0
 */
public record Gpu(
    Device device, String name, String capability, int processors, long memory, String cuda) {
  /**
   * The GPUs of this machine, in the order of their indices; at least one.
   *
   * @throws UnsupportedException if the native library was built without CUDA, or the machine has
   *     no GPU or no driver: the message says which
   */
  public static List<Gpu> all() {
    List<Gpu> gpus = new ArrayList<>();
    try (saccade_gpu gpu = new saccade_gpu();
        BytePointer error = new BytePointer(1024)) {
      gpu.struct_size(gpu.sizeof());
      do {
        int status = Saccade.saccade_gpu_describe(gpus.size(), gpu, error, error.capacity());
        if (status != Saccade.SACCADE_OK) {
          throw SaccadeException.of(status, error.limit(0).getString()); // limit 0: up to the zero
        }
        gpus.add(
            new Gpu(
                Device.cuda(gpus.size()),
                gpu.name().getString(),
                gpu.capability() / 10 + "." + gpu.capability() % 10,
                gpu.processors(),
                gpu.memory(),
                gpu.cuda_version() / 1000 + "." + gpu.cuda_version() % 1000 / 10));
      } while (gpus.size() < gpu.count());
    }
    return gpus;
  }

  /** One line: device, name, and what there is of it. */
  @Override
  public String toString() {
    return String.format(
        Locale.ROOT,
        "%s %s, compute capability %s, %d multiprocessors, %.1f GiB, driver for CUDA %s",
        device,
        name,
        capability,
        processors,
        memory / (double) (1L << 30),
        cuda);
  }
}
