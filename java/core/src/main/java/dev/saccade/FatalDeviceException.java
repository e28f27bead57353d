package dev.saccade;

/**
 * A GPU that this process can no longer use: a kernel faulted, or the device failed. Close every
 * context of it; only a new process can use it again.
 */
public final class FatalDeviceException extends FatalException {
  private static final long serialVersionUID = 1L;

  public FatalDeviceException(String message) {
    super(message);
  }
}
