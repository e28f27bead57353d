package dev.saccade.cli.cases;

/** A case cannot be run as it stands; the message, one line, says why. */
public final class CaseException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /**
   * @param message why, in one line, without the name of the file
   */
  public CaseException(String message) {
    super(message);
  }
}
