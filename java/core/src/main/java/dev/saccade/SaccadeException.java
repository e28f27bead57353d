package dev.saccade;

/** Root of what this library throws. */
public class SaccadeException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  public SaccadeException(String message) {
    super(message);
  }
}
