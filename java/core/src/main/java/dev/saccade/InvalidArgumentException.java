package dev.saccade;

/** An argument has the wrong type, shape, device or value. Nothing was computed or written. */
public final class InvalidArgumentException extends SaccadeException {
  private static final long serialVersionUID = 1L;

  private final String operation;
  private final String argument;
  private final String expected;
  private final String actual;

  public InvalidArgumentException(
      String operation, String argument, String expected, String actual) {
    super(operation + ": " + argument + ": expected " + expected + ", got " + actual);
    this.operation = operation;
    this.argument = argument;
    this.expected = expected;
    this.actual = actual;
  }

  /** The value, unless it is null. */
  static <T> T requirePresent(String operation, String argument, T value) {
    if (value == null) {
      throw new InvalidArgumentException(operation, argument, "a value", "null");
    }
    return value;
  }

  /** The operation that was called, by its name in the C ABI. */
  public String operation() {
    return operation;
  }

  /** The argument that is wrong. */
  public String argument() {
    return argument;
  }

  /** What would have been accepted. */
  public String expected() {
    return expected;
  }

  /** What was given. */
  public String actual() {
    return actual;
  }
}
