package dev.saccade.train.report;

import java.awt.BasicStroke;
import java.awt.Color;
import java.awt.Font;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.math.MathContext;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.knowm.xchart.VectorGraphicsEncoder;
import org.knowm.xchart.VectorGraphicsEncoder.VectorGraphicsFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.XYSeries.XYSeriesRenderStyle;
import org.knowm.xchart.style.Styler.LegendLayout;
import org.knowm.xchart.style.Styler.LegendPosition;
import org.knowm.xchart.style.XYStyler;
import org.knowm.xchart.style.markers.Marker;
import org.knowm.xchart.style.markers.SeriesMarkers;

/**
 * One metric against the step: each training stage as a faint raw curve under its moving average,
 * and held-out evaluations as points with their intervals.
 *
 * @param name file name without extension, and prefix of ids in the drawing
 * @param title what is drawn
 * @param stages the curve of each stage, by its name in capitals, or of each run; none of them
 *     empty
 * @param heldOut the rows of the evaluations; empty unless the metric is the accuracy
 */
record CurveChart(
    String name, String title, Map<String, Curve> stages, List<Map<String, Object>> heldOut) {

  private static final String SFT = "SFT";
  private static final String EVAL = "EVAL";
  private static final int WIDTH = 360;
  private static final int HEIGHT = 210;
  private static final Color CLEAR = new Color(0, true);

  /** An entry of the legend. */
  record Key(String label, Ink ink, boolean point) {}

  /** Of the learning rule, in order; another metric is drawn behind them, under its own name. */
  private static final Map<String, String> TITLES = new LinkedHashMap<>();

  static {
    TITLES.put("reward", "Reward");
    TITLES.put("accuracy", "Accuracy");
    TITLES.put("held_out_accuracy", "Held-out accuracy");
    TITLES.put("loss", "Loss");
    TITLES.put("kl", "KL to the reference, nats");
    TITLES.put("kl_coef", "Coefficient of the KL term");
    TITLES.put("entropy", "Entropy of the tokens, nats");
    TITLES.put("attention_divergence", "Attention divergence, nats");
    TITLES.put("logit_divergence", "Divergence from the teacher, nats");
    TITLES.put("teacher_attention_divergence", "Attention divergence from the teacher, nats");
    TITLES.put("response_length", "Tokens of a response");
    TITLES.put("format", "Share of well-formed responses");
    TITLES.put("degenerate", "Share of groups with equal rewards");
    TITLES.put("rounds", "Rounds of sampling");
    TITLES.put("attention_entropy", "Entropy of the attention, nats");
    TITLES.put("ratio", "Ratio to the old policy");
    TITLES.put("clipped_low", "Share of tokens clipped below");
    TITLES.put("clipped_high", "Share of tokens clipped above");
    TITLES.put("grad_norm", "Norm of the gradient");
    TITLES.put("learning_rate", "Learning rate");
    TITLES.put("tokens_per_second", "Tokens per second");
  }

  /** Drawn where they do not change, too. */
  private static final Set<String> ALWAYS =
      Set.of("loss", "reward", "accuracy", "held_out_accuracy", "kl");

  private static String title(String field) {
    return TITLES.getOrDefault(field, field.replace('_', ' '));
  }

  /** Those with curves of their own: not places in time, nor the parts of a step's time. */
  private static Set<String> fields(Map<String, List<Map<String, Object>>> byStage) {
    Set<String> fields = new LinkedHashSet<>(TITLES.keySet());
    byStage.values().forEach(rows -> rows.forEach(row -> fields.addAll(row.keySet())));
    fields.removeIf(field -> field.equals("step") || field.endsWith("_seconds"));
    return fields;
  }

  /** The charts of all metrics that have values, most of them only where these change. */
  static List<CurveChart> all(List<Map<String, Object>> metrics) {
    Map<String, List<Map<String, Object>>> byStage = new LinkedHashMap<>();
    for (Map<String, Object> row : metrics) {
      String stage =
          row.containsKey("run")
              ? row.get("run").toString()
              : String.valueOf(row.get("stage")).toUpperCase(Locale.ROOT);
      byStage.computeIfAbsent(stage, any -> new ArrayList<>()).add(row);
    }
    List<Map<String, Object>> sft = byStage.remove(SFT);
    List<Map<String, Object>> eval = byStage.remove(EVAL);
    List<CurveChart> charts = new ArrayList<>();
    Map<String, List<Map<String, Object>>> warmUp = sft == null ? Map.of() : Map.of(SFT, sft);
    charts.add(of("loss", "loss", "Warm-up loss", warmUp, null));
    for (String field : fields(byStage)) {
      charts.add(
          of(
              field.equals("loss") ? "rule_loss" : field, // the warm-up has another
              field,
              title(field),
              byStage,
              field.equals("accuracy") ? eval : null));
    }
    for (String field : fields(warmUp)) {
      if (!field.equals("loss")) {
        charts.add(of("warm_up_" + field, field, "Warm-up: " + title(field), warmUp, null));
      }
    }
    charts.removeIf(chart -> chart.stages.isEmpty() && chart.heldOut.isEmpty());
    charts.removeIf(chart -> !ALWAYS.contains(chart.name) && chart.isConstant());
    return charts;
  }

  private static CurveChart of(
      String name,
      String field,
      String title,
      Map<String, List<Map<String, Object>>> stages,
      List<Map<String, Object>> eval) {
    Map<String, Curve> curves = new LinkedHashMap<>();
    stages.forEach((stage, rows) -> curves.put(stage, Curve.of(rows, "step", field)));
    curves.values().removeIf(curve -> curve.size() == 0);
    List<Map<String, Object>> heldOut =
        eval == null
            ? List.of()
            : eval.stream()
                .filter(row -> Double.isFinite(heldOutStep(row)))
                .filter(row -> Double.isFinite(Curve.number(row, field)))
                .toList();
    return new CurveChart(name, title, curves, heldOut);
  }

  private boolean isConstant() {
    return stages.values().stream()
            .flatMapToDouble(curve -> Arrays.stream(curve.y()))
            .distinct()
            .count()
        == 1;
  }

  /** What the colours and shapes mean. */
  List<Key> legend() {
    List<Key> keys = new ArrayList<>();
    for (String stage : stages.keySet()) {
      keys.add(new Key(stage, Ink.series(keys.size()), false));
    }
    if (!heldOut.isEmpty()) {
      keys.add(new Key("held out, 95 % interval", Ink.HELD_OUT, true));
    }
    return keys;
  }

  /**
   * The drawing as an element for the report, without title and legend, in the colours of its
   * theme.
   */
  String inline() throws IOException {
    String label = Html.escape(title + " against the training step");
    return svg("role=\"img\" aria-label=\"" + label + "\"", true);
  }

  /** The drawing as a file of its own. */
  String standalone() throws IOException {
    String size = "width=\"%s\" height=\"%s\"".formatted(WIDTH, HEIGHT);
    return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n" + svg(size, false);
  }

  private String svg(String attributes, boolean inReport) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    VectorGraphicsEncoder.saveVectorGraphic(chart(inReport), bytes, VectorGraphicsFormat.SVG);
    String drawing = Svg.content(bytes.toString(StandardCharsets.UTF_8), name);
    return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %s %s\" %s>%s"
        .formatted(WIDTH, HEIGHT, attributes, Ink.apply(drawing, inReport));
  }

  private XYChart chart(boolean inReport) {
    XYChart chart = new XYChartBuilder().width(WIDTH).height(HEIGHT).build();
    style(chart.getStyler());
    if (!inReport) {
      chart.setTitle(title);
      chart.setXAxisTitle("step");
      chart.getStyler().setChartTitleVisible(true).setLegendVisible(true).setChartPadding(8);
    }
    // Invisible. Where all steps are evenly spaced, XChart would label some of them, such as 1, 73
    // and 145, in place of round numbers.
    Curve origin = new Curve(new double[] {0, 1 / 3.0}, new double[] {Double.NaN, Double.NaN});
    addLine(chart, "origin", origin, Ink.GRID, 1f).setShowInLegend(false);
    List<Curve> curves = List.copyOf(stages.values());
    List<Key> legend = legend();
    for (int i = 0; i < curves.size(); i++) {
      Curve raw = curves.get(i).thin();
      addLine(chart, legend.get(i).label + " raw", raw, legend.get(i).ink.faint(), 1f)
          .setShowInLegend(false);
    }
    for (int i = 0; i < curves.size(); i++) {
      Curve smooth = curves.get(i).smooth().thin();
      addLine(chart, legend.get(i).label, smooth, legend.get(i).ink, 2f);
    }
    if (!heldOut.isEmpty()) {
      addHeldOut(chart, legend.get(legend.size() - 1).label);
    }
    return chart;
  }

  private static XYSeries addLine(XYChart chart, String label, Curve curve, Ink ink, float width) {
    // A line through fewer than two points shows nothing.
    Marker marker = curve.size() < 2 ? SeriesMarkers.CIRCLE : SeriesMarkers.NONE;
    XYSeries series = chart.addSeries(label, curve.x(), curve.y());
    series.setLineColor(ink.mark());
    series.setLineStyle(new BasicStroke(width, BasicStroke.CAP_ROUND, BasicStroke.JOIN_ROUND));
    series.setMarkerColor(ink.mark());
    series.setMarker(marker);
    return series;
  }

  private void addHeldOut(XYChart chart, String label) {
    int n = heldOut.size();
    double[] x = new double[n];
    double[] y = new double[n];
    // Vertical strokes with gaps between them: XChart's error bars are symmetric, Wilson's are not.
    double[] barX = new double[3 * n];
    double[] barY = new double[3 * n];
    for (int i = 0; i < n; i++) {
      Map<String, Object> row = heldOut.get(i);
      x[i] = heldOutStep(row);
      y[i] = Curve.number(row, name);
      barX[3 * i] = barX[3 * i + 1] = barX[3 * i + 2] = x[i];
      barY[3 * i] = endOfBar(row, "_low", y[i]);
      barY[3 * i + 1] = endOfBar(row, "_high", y[i]);
      barY[3 * i + 2] = Double.NaN;
    }
    addLine(chart, "interval", new Curve(barX, barY), Ink.HELD_OUT, 1.5f).setShowInLegend(false);
    XYSeries points = addLine(chart, label, new Curve(x, y), Ink.HELD_OUT, 0f);
    points.setXYSeriesRenderStyle(XYSeriesRenderStyle.Scatter);
    points.setMarker(SeriesMarkers.CIRCLE);
  }

  private double endOfBar(Map<String, Object> row, String end, double otherwise) {
    double value = Curve.number(row, name + end);
    return Double.isFinite(value) ? value : otherwise;
  }

  private static double heldOutStep(Map<String, Object> row) {
    return Curve.number(row, row.containsKey("policy_step") ? "policy_step" : "step");
  }

  /** Six digits at most, without an exponent unless very small. */
  private static String tick(double value) {
    BigDecimal rounded = new BigDecimal(value).round(new MathContext(6)).stripTrailingZeros();
    boolean plain = value == 0 || Math.abs(value) >= 1e-5;
    return plain ? rounded.toPlainString() : rounded.toString().replace('E', 'e');
  }

  private static void style(XYStyler styler) {
    Font font = new Font(Font.SANS_SERIF, Font.PLAIN, 11);
    styler
        .setLocale(Locale.ROOT)
        .setChartTitleVisible(false)
        .setChartTitleBoxVisible(false)
        .setChartTitleFont(font.deriveFont(Font.BOLD, 12f))
        .setChartPadding(2)
        .setChartBackgroundColor(Ink.BACKGROUND.mark())
        .setChartFontColor(Ink.TEXT.mark())
        .setLegendVisible(false)
        .setLegendPosition(LegendPosition.OutsideS)
        .setLegendLayout(LegendLayout.Horizontal)
        .setLegendFont(font)
        .setLegendBorderColor(CLEAR)
        .setLegendBackgroundColor(CLEAR)
        .setLegendSeriesLineLength(16);
    styler.setPlotBackgroundColor(Ink.BACKGROUND.mark());
    styler.setPlotBorderVisible(false);
    styler.setPlotContentSize(0.94);
    styler
        .setAxisTitleFont(font)
        .setAxisTickLabelsFont(font)
        .setAxisTickLabelsColor(Ink.TEXT.mark())
        .setAxisTickMarksColor(Ink.GRID.mark())
        .setXAxisTickMarkSpacingHint(70)
        .setYAxisTickMarkSpacingHint(38)
        .setPlotGridLinesColor(Ink.GRID.mark())
        .setPlotGridLinesStroke(new BasicStroke(1f))
        .setPlotGridVerticalLinesVisible(false)
        .setAxisTicksMarksVisible(false)
        .setxAxisTickLabelsFormattingFunction(CurveChart::tick)
        .setyAxisTickLabelsFormattingFunction(CurveChart::tick);
    styler.setMarkerSize(6);
  }
}
