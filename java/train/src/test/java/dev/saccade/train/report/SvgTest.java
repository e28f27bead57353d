package dev.saccade.train.report;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class SvgTest {

  @Test
  void linesOfOneStyleBecomeOnePathWithItsGaps() {
    String drawing =
        "<svg a=\"1\"><g>"
            + line("s", 0, 0, 1, 2)
            + line("s", 1, 2, 3, 4)
            + line("s", 7, 7, 8, 8)
            + line("t", 8, 8, 9, 9)
            + "</g>"
            + line("t", 9, 9, 5, 5)
            + "</svg>";

    assertThat(Svg.content(drawing, "x").replace("\n", ""))
        .isEqualTo(
            "<g><path style=\"s\" d=\"M0 0L1 2L3 4M7 7L8 8\"/><path style=\"t\" d=\"M8 8L9"
                + " 9\"/></g><path style=\"t\" d=\"M9 9L5 5\"/></svg>");
  }

  @Test
  void clipsGetNamesOfTheirDrawing() {
    String drawing =
        "<?xml?><svg>\n<a id=\"clip12\"/><b id=\"clip-7\"/><c clip-path=\"url(#clip12)\"/></svg>";

    assertThat(Svg.content(drawing, "kl"))
        .isEqualTo(
            "\n<a id=\"kl-clip-0\"/><b id=\"kl-clip-1\"/><c clip-path=\"url(#kl-clip-0)\"/></svg>");
  }

  @Test
  void coordinatesHaveTwoDecimals() {
    assertThat(Svg.content("<svg><a x=\"1.23456\" y=\"-0.5\"/></svg>", "x"))
        .isEqualTo("<a x=\"1.23\" y=\"-0.5\"/></svg>");
  }

  private static String line(String style, int x1, int y1, int x2, int y2) {
    return "<line style=\"%s\" x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\"/>\n"
        .formatted(style, x1, x2, y1, y2);
  }
}
