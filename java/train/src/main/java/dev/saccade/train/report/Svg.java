package dev.saccade.train.report;

import java.util.HashMap;
import java.util.Map;
import java.util.regex.MatchResult;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Makes the drawings of the chart library fit to stand in one page: small, and without common ids.
 */
final class Svg {

  private static final Pattern ROOT = Pattern.compile("^.*?<svg[^>]*>", Pattern.DOTALL);
  private static final Pattern CLIP = Pattern.compile("clip(-?\\d+)");
  private static final Pattern LONG_DECIMAL = Pattern.compile("(\\.\\d\\d)\\d+");
  private static final Pattern LINE =
      Pattern.compile(
          "<line style=\"([^\"]*)\" x1=\"([^\"]*)\" x2=\"([^\"]*)\" y1=\"([^\"]*)\""
              + " y2=\"([^\"]*)\"/>\\s*");

  private Svg() {}

  /** The content of a drawing, without its root element's start, which is the caller's to give. */
  static String content(String drawing, String idPrefix) {
    String content = ROOT.matcher(drawing).replaceFirst("");
    content = LONG_DECIMAL.matcher(content).replaceAll("$1");
    return joinLines(renameClips(content, idPrefix));
  }

  private static String renameClips(String content, String prefix) {
    Map<String, String> names = new HashMap<>();
    return CLIP.matcher(content)
        .replaceAll(
            id -> names.computeIfAbsent(id.group(1), any -> prefix + "-clip-" + names.size()));
  }

  /**
   * Turns neighbouring lines of one style into one path, which is a tenth of the size and has no
   * dark spots where translucent lines meet.
   */
  private static String joinLines(String content) {
    StringBuilder joined = new StringBuilder();
    Matcher line = LINE.matcher(content);
    int copied = 0;
    String style = null;
    String pen = null;
    while (line.find()) {
      MatchResult found = line.toMatchResult();
      if (found.start() != copied || !found.group(1).equals(style)) {
        if (style != null) {
          joined.append("\"/>\n");
        }
        joined.append(content, copied, found.start());
        style = found.group(1);
        joined.append("<path style=\"").append(style).append("\" d=\"");
        pen = null;
      }
      String from = found.group(2) + " " + found.group(4);
      String to = found.group(3) + " " + found.group(5);
      if (!from.equals(pen)) {
        joined.append('M').append(from);
      }
      joined.append('L').append(to);
      pen = to;
      copied = found.end();
    }
    if (style != null) {
      joined.append("\"/>\n");
    }
    return joined.append(content, copied, content.length()).toString();
  }
}
