package dev.saccade;

/**
 * The build, the device or the context cannot do what was asked, though the arguments are right.
 */
public final class UnsupportedException extends SaccadeException {
  private static final long serialVersionUID = 1L;

  public UnsupportedException(String message) {
    super(message);
  }
}
