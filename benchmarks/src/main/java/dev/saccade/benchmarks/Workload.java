package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.function.Function;

/**
 * What a benchmark method asks of every engine.
 *
 * <p>Bytes and operations are those that the result needs, whoever computes it: every input read
 * once, every output written once, the products of matrices that the definition holds. So they say
 * how far an engine is from the machine's ceiling, passes that it does not save included.
 *
 * @param name of the operation, and its section of docs/spec.md where it has one
 * @param shape what it runs on, for people
 * @param bytesRead bytes of the inputs
 * @param bytesWritten bytes of the outputs
 * @param flops floating-point operations in products of matrices
 * @param tolerance of the comparison with Saccade's f32 results, relative
 * @param work prepares it on an engine
 */
public record Workload(
    String name,
    String shape,
    long bytesRead,
    long bytesWritten,
    double flops,
    double tolerance,
    Function<Engine, Work> work) {
  /** Together beyond any cache. */
  private static final long BEYOND_CACHES = 256L << 20;

  private static final int MOST_COPIES = 32;

  /** A workload of no bytes and no products, tolerance 1e-4. */
  public static Workload of(String name, String shape, Function<Engine, Work> work) {
    return new Workload(name, shape, 0, 0, 0, 1e-4, work);
  }

  /** Adds {@code elements} of {@code dtype} to what is read. */
  public Workload reads(long elements, DType dtype) {
    return new Workload(
        name, shape, bytesRead + elements * dtype.bytes(), bytesWritten, flops, tolerance, work);
  }

  /** Adds f32 {@code elements} to what is read. */
  public Workload reads(long elements) {
    return reads(elements, DType.F32);
  }

  /** Adds {@code elements} of {@code dtype} to what is written. */
  public Workload writes(long elements, DType dtype) {
    return new Workload(
        name, shape, bytesRead, bytesWritten + elements * dtype.bytes(), flops, tolerance, work);
  }

  /** Adds f32 {@code elements} to what is written. */
  public Workload writes(long elements) {
    return writes(elements, DType.F32);
  }

  /** The same numbers, of another name and by other work. */
  Workload on(String name, Function<Engine, Work> work) {
    return new Workload(name, shape, bytesRead, bytesWritten, flops, tolerance, work);
  }

  /** A variant that of the engines Saccade alone is measured with. */
  Workload variant(String name, Function<SaccadeEngine, Work> work) {
    return on(
        name,
        engine -> {
          if (engine instanceof SaccadeEngine saccade) {
            return work.apply(saccade);
          }
          throw new IllegalArgumentException(name + " is measured with Saccade alone");
        });
  }

  /** Bytes of inputs and outputs. */
  long bytes() {
    return bytesRead + bytesWritten;
  }

  /** How many of it take turns, so that no cache holds the data of all. */
  int copies() {
    return (int) Math.max(1, Math.min(MOST_COPIES, (BEYOND_CACHES + bytes() - 1) / bytes()));
  }

  /** The name without its section: the operation, and what is special about this use of it. */
  String operation() {
    return name.replaceFirst("^§\\d+ ", "");
  }

  public Workload withFlops(double flops) {
    return new Workload(name, shape, bytesRead, bytesWritten, flops, tolerance, work);
  }

  public Workload withTolerance(double tolerance) {
    return new Workload(name, shape, bytesRead, bytesWritten, flops, tolerance, work);
  }
}
