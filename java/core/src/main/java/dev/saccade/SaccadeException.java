package dev.saccade;

import dev.saccade.binding.Saccade;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Root of what this library throws. */
public class SaccadeException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** The message of SACCADE_INVALID_ARGUMENT. */
  private static final Pattern INVALID_ARGUMENT =
      Pattern.compile("(\\w+): ([^:]+): expected (.*?), got (.*)", Pattern.DOTALL);

  public SaccadeException(String message) {
    super(message);
  }

  /** The exception of a status that is not OK. */
  static SaccadeException of(int status, String message) {
    Matcher parts = INVALID_ARGUMENT.matcher(message);
    if (status == Saccade.SACCADE_INVALID_ARGUMENT && parts.matches()) {
      return new InvalidArgumentException(
          parts.group(1), parts.group(2), parts.group(3), parts.group(4));
    }
    return switch (status) {
      case Saccade.SACCADE_UNSUPPORTED -> new UnsupportedException(message);
      case Saccade.SACCADE_OUT_OF_MEMORY -> new OutOfMemoryException(message);
      case Saccade.SACCADE_FATAL -> new FatalDeviceException(message);
      default -> new FatalException(message);
    };
  }
}
