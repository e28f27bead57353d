package dev.saccade;

/** A context, scope or tensor was used after it was closed. */
public final class ClosedException extends SaccadeException {
  private static final long serialVersionUID = 1L;

  public ClosedException(String message) {
    super(message);
  }
}
