package dev.saccade;

import dev.saccade.binding.Saccade;

/**
 * Where tensors live and operations run.
 *
 * @param kind the backend
 * @param index which device of that kind; 0 for the CPU
 */
public record Device(Kind kind, int index) {
  /** Backends. */
  public enum Kind {
    CPU(Saccade.SACCADE_CPU),
    CUDA(Saccade.SACCADE_CUDA);

    private final int code;

    Kind(int code) {
      this.code = code;
    }

    int code() {
      return code;
    }
  }

  /** The host. */
  public static final Device CPU = new Device(Kind.CPU, 0);

  /** A GPU. */
  public static Device cuda(int index) {
    return new Device(Kind.CUDA, index);
  }

  /**
   * Reads {@code cpu}, {@code cuda} or {@code cuda:N}.
   *
   * @throws InvalidArgumentException on any other name
   */
  public static Device parse(String name) {
    if (name.equals("cpu")) {
      return CPU;
    }
    if (name.equals("cuda")) {
      return cuda(0);
    }
    if (name.matches("cuda:[0-9]{1,4}")) {
      return cuda(Integer.parseInt(name.substring(5)));
    }
    throw new InvalidArgumentException("device", "device", "cpu, cuda or cuda:N", name);
  }

  @Override
  public String toString() {
    return kind == Kind.CPU ? "cpu" : "cuda:" + index;
  }
}
