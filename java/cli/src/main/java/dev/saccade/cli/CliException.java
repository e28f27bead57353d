package dev.saccade.cli;

/**
 * What the user asked for cannot be done. The message is one line, complete as it stands; the
 * command ends with status 2.
 */
public final class CliException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /**
   * @param message one line, without the name of the command
   */
  public CliException(String message) {
    super(message);
  }

  /**
   * @param message one line, without the name of the command
   * @param cause shown with {@code --debug}
   */
  public CliException(String message, Throwable cause) {
    super(message, cause);
  }
}
