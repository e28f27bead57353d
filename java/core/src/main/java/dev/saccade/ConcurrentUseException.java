package dev.saccade;

/**
 * A context was used by a second thread while a first was inside a call. The second did nothing.
 */
public final class ConcurrentUseException extends SaccadeException {
  private static final long serialVersionUID = 1L;

  public ConcurrentUseException(String message) {
    super(message);
  }
}
