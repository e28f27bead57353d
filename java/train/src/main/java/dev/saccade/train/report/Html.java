package dev.saccade.train.report;

import java.util.stream.Collectors;

/** Text that is safe in HTML and XML. */
public final class Html {

  private Html() {}

  /** Escapes markup, and replaces characters that XML cannot hold by U+FFFD. */
  public static String escape(String text) {
    return text.codePoints().mapToObj(Html::escape).collect(Collectors.joining());
  }

  private static String escape(int c) {
    return switch (c) {
      case '&' -> "&amp;";
      case '<' -> "&lt;";
      case '>' -> "&gt;";
      case '"' -> "&quot;";
      case '\'' -> "&#39;";
      case '\t', '\n', '\r' -> Character.toString(c);
      default ->
          c < 0x20 || Character.getType(c) == Character.SURROGATE || (c & 0xfffe) == 0xfffe
              ? "\ufffd"
              : Character.toString(c);
    };
  }
}
