package dev.saccade;

import dev.saccade.binding.Saccade;

/**
 * Where tensors live and operations run.
 *
 * @param kind the backend
 * @param index which device of that kind, from 0; 0 for the CPU
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

    /** {@code saccade_device} of the C ABI. */
    int code() {
      return code;
    }
  }

  /** The host. */
  public static final Device CPU = new Device(Kind.CPU, 0);

  /**
   * @throws InvalidArgumentException if there can be no such device
   */
  public Device {
    InvalidArgumentException.requirePresent("device", "kind", kind);
    if (index < 0 || kind == Kind.CPU && index > 0) {
      throw new InvalidArgumentException(
          "device",
          "index",
          kind == Kind.CPU ? "0 for the CPU" : "0 or more",
          Integer.toString(index));
    }
  }

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
    if ("cpu".equals(name)) {
      return CPU;
    }
    if ("cuda".equals(name)) {
      return cuda(0);
    }
    if (name != null && name.matches("cuda:[0-9]{1,4}")) {
      return cuda(Integer.parseInt(name.substring("cuda:".length())));
    }
    throw new InvalidArgumentException("device", "name", "cpu, cuda or cuda:N", name);
  }

  @Override
  public String toString() {
    return kind == Kind.CPU ? "cpu" : "cuda:" + index;
  }
}
