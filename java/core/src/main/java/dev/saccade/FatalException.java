package dev.saccade;

/** A defect of the library, or the loss of a device: close the context. */
public sealed class FatalException extends SaccadeException permits FatalDeviceException {
  private static final long serialVersionUID = 1L;

  public FatalException(String message) {
    super(message);
  }
}
