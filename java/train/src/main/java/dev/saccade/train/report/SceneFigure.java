package dev.saccade.train.report;

import dev.saccade.train.report.AttentionPicture.Glance;
import java.awt.image.BufferedImage;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.util.Base64;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import javax.imageio.ImageIO;

/**
 * Draws an {@link AttentionPicture}: the ink of the scene in white over patches coloured by
 * attention, before and after in one scale from 0 to the largest weight of the two.
 */
public final class SceneFigure {

  /**
   * Magma (van der Walt and Smith, 2015) up to 0.72, where white ink still stands out: lightness
   * rises evenly, also for colour-blind readers and in grey.
   */
  private static final int[] MAGMA = {
    0x000004, 0x110b30, 0x2f1163, 0x51127c, 0x721f81, 0x932b80, 0xb73779, 0xd8456c, 0xf1605d
  };

  private SceneFigure() {}

  static String html(AttentionPicture picture) throws IOException {
    float max = Math.max(max(picture.before().attention()), max(picture.after().attention()));
    String ink = ink(picture.canvas(), picture.side());
    return """
    <figure class="scene">
    <figcaption><b>%s</b> <span>truth <b>%s</b></span></figcaption>
    <div class="pair">
    %s%s</div>
    <p class="note">largest weight %s</p>
    %s</figure>
    """
        .formatted(
            Html.escape(picture.question()),
            Html.escape(picture.truth()),
            glance("before", picture, picture.before(), max, ink),
            glance("after", picture, picture.after(), max, ink),
            decimal(max, 3),
            samples(picture.samples()));
  }

  private static String samples(List<String> samples) {
    return samples.isEmpty()
        ? ""
        : "<p class=\"note\">sampled: "
            + samples.stream().map(Html::escape).collect(Collectors.joining("; "))
            + "</p>\n";
  }

  /** The colour scale, from 0 to the largest weight. */
  static String legend() {
    String stops =
        IntStream.range(0, MAGMA.length)
            .mapToObj(i -> hex(MAGMA[i]))
            .collect(Collectors.joining(","));
    return """
    <p class="scale"><span>0</span><i style="background:linear-gradient(to right,%s)"></i>\
    <span>largest weight of the pair</span></p>
    """
        .formatted(stops);
  }

  private static String glance(
      String when, AttentionPicture picture, Glance glance, float max, String ink) {
    boolean right = glance.answer().equals(picture.truth());
    String answer = glance.answer().isEmpty() ? "none" : glance.answer();
    return """
    <div class="glance">
    %s
    <p>%s: <b>%s</b> <span class="%s">%s</span></p>
    %s</div>
    """
        .formatted(
            drawing(
                picture.side(),
                picture.patchesPerSide(),
                glance.attention(),
                max,
                ink,
                "Attention " + when + " training"),
            when,
            Html.escape(answer),
            right ? "right" : "wrong",
            right ? "✓ right" : "✗ wrong",
            glance.response().isEmpty()
                ? ""
                : "<p class=\"note\">" + Html.escape(glance.response()) + "</p>\n");
  }

  /**
   * Values of patches under the ink of a scene, as an SVG element.
   *
   * @param canvas [side, side], row-major: 0 paper … 1 ink
   * @param side width and height in pixels
   * @param patchesPerSide a divisor of {@code side}
   * @param values of the patches in reading order, not negative; the largest is brightest
   * @param label for readers that do not see it
   */
  public static String overlay(
      float[] canvas, int side, int patchesPerSide, float[] values, String label)
      throws IOException {
    return drawing(side, patchesPerSide, values, max(values), ink(canvas, side), label);
  }

  private static String drawing(
      int side, int patchesPerSide, float[] values, float max, String ink, String label) {
    int patch = side / patchesPerSide;
    StringBuilder patches = new StringBuilder();
    for (int i = 0; i < values.length; i++) {
      patches.append(
          "<rect x=\"%s\" y=\"%s\" width=\"%s\" height=\"%<s\" fill=\"%s\"><title>%s</title></rect>"
              .formatted(
                  i % patchesPerSide * patch,
                  i / patchesPerSide * patch,
                  patch,
                  colour(max > 0 ? values[i] / max : 0),
                  number(values[i])));
    }
    return """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %<s" role="img" aria-label="%s" \
    shape-rendering="crispEdges">%s\
    <image href="data:image/png;base64,%s" width="%s" height="%<s" pointer-events="none"/></svg>"""
        .formatted(side, Html.escape(label), patches, ink, side);
  }

  /** The ink as white of the pixel's opacity: a PNG in base 64. */
  private static String ink(float[] canvas, int side) throws IOException {
    BufferedImage image = new BufferedImage(side, side, BufferedImage.TYPE_INT_ARGB);
    for (int i = 0; i < canvas.length; i++) {
      int opacity = Math.round(255 * Math.max(0, Math.min(1, canvas[i])));
      image.setRGB(i % side, i / side, opacity << 24 | 0xffffff);
    }
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    ImageIO.write(image, "png", bytes);
    return Base64.getEncoder().encodeToString(bytes.toByteArray());
  }

  /** The colour of a weight in [0, 1], between the two nearest of the scale: dark to bright. */
  public static String colour(float weight) {
    float at = Math.max(0, Math.min(1, weight)) * (MAGMA.length - 1);
    int low = Math.min((int) at, MAGMA.length - 2);
    int mixed = 0;
    for (int shift = 16; shift >= 0; shift -= 8) {
      int from = MAGMA[low] >> shift & 0xff;
      int to = MAGMA[low + 1] >> shift & 0xff;
      mixed |= Math.round(from + (at - low) * (to - from)) << shift;
    }
    return hex(mixed);
  }

  private static String hex(int rgb) {
    return "#%06x".formatted(rgb);
  }

  /** Three places, or three digits where that would be nothing. */
  private static String number(float value) {
    return value == 0 || value >= 1e-3f
        ? decimal(value, 3)
        : String.format(Locale.ROOT, "%.2e", value);
  }

  private static String decimal(float value, int places) {
    return String.format(Locale.ROOT, "%." + places + "f", value);
  }

  private static float max(float[] values) {
    float max = 0;
    for (float value : values) {
      max = Math.max(max, value);
    }
    return max;
  }
}
