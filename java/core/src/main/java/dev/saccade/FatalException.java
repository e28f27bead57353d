package dev.saccade;

/** A defect of the library, or a device that can no longer be used: close the context. */
public final class FatalException extends SaccadeException {
  private static final long serialVersionUID = 1L;

  public FatalException(String message) {
    super(message);
  }
}
