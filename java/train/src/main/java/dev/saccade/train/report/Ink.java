package dev.saccade.train.report;

import java.awt.Color;

/**
 * The colours of a curve. A chart is drawn with one recognisable {@link #mark} each, which is then
 * replaced by a style: the page's custom property, so that the curve follows its light or dark
 * theme, or a fixed colour for a file of its own. The first three are those of Okabe and Ito, which
 * colour-blind readers tell apart.
 */
enum Ink {
  BACKGROUND("none", "#ffffff"),
  TEXT("var(--muted)", "#57606a"),
  GRID("var(--line)", "#e2e6ea"),
  FIRST("var(--first)", "#0072b2"),
  SECOND("var(--second)", "#009e73"),
  THIRD("var(--third)", "#aa4499"),
  FOURTH("var(--fourth)", "#7d6b00"),
  FIFTH("var(--fifth)", "#882255"),
  SIXTH("var(--sixth)", "#444b54"),
  HELD_OUT("var(--held-out)", "#d55e00"),
  FIRST_FAINT(FIRST),
  SECOND_FAINT(SECOND),
  THIRD_FAINT(THIRD),
  FOURTH_FAINT(FOURTH),
  FIFTH_FAINT(FIFTH),
  SIXTH_FAINT(SIXTH);

  private static final int SERIES = 6;
  private static final String FAINT = ";stroke-opacity:0.28";

  private final String themed;
  private final String fixed;

  Ink(String themed, String fixed) {
    this.themed = themed;
    this.fixed = fixed;
  }

  Ink(Ink strong) {
    this(strong.themed + FAINT, strong.fixed + FAINT);
  }

  /** The strong ink of the n-th curve; from the seventh on, they begin anew. */
  static Ink series(int n) {
    return values()[FIRST.ordinal() + n % SERIES];
  }

  /** The same ink for a curve that stays behind another. */
  Ink faint() {
    return values()[FIRST_FAINT.ordinal() + ordinal() - FIRST.ordinal()];
  }

  String themed() {
    return themed;
  }

  /** The colour to draw with; no other part of a chart has it. */
  Color mark() {
    return new Color(1 + ordinal(), 2, 3);
  }

  /** Replaces every mark in an SVG drawing. */
  static String apply(String svg, boolean themed) {
    for (Ink ink : values()) {
      Color mark = ink.mark();
      String drawn = "rgb(%s,%s,%s)".formatted(mark.getRed(), mark.getGreen(), mark.getBlue());
      svg = svg.replace(drawn, themed ? ink.themed : ink.fixed);
    }
    return svg;
  }
}
