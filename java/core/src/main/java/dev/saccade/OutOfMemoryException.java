package dev.saccade;

/**
 * The device has not the memory that was asked for. The context stays usable; the message lists the
 * largest live tensors.
 */
public final class OutOfMemoryException extends SaccadeException {
  private static final long serialVersionUID = 1L;

  public OutOfMemoryException(String message) {
    super(message);
  }
}
