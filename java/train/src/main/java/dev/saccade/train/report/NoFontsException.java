package dev.saccade.train.report;

import java.io.IOException;

/** This host cannot draw text: it has no fonts, or its Java no libraries that draw. */
public final class NoFontsException extends IOException {
  private static final long serialVersionUID = 1L;

  /**
   * @param cause what the attempt ended with
   */
  NoFontsException(Throwable cause) {
    super(
        "text cannot be drawn here, for want of fonts (fontconfig) or of the libraries of a"
            + " headless Java: "
            + root(cause),
        cause);
  }

  private static String root(Throwable error) {
    return error.getCause() == null ? error.toString() : root(error.getCause());
  }
}
