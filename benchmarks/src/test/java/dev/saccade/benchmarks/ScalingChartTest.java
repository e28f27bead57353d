package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.benchmarks.ScalingChart.Scale;
import java.io.StringReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.DoubleStream;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;
import org.xml.sax.InputSource;

class ScalingChartTest {
  private static List<Result> series() {
    List<Result> results = new ArrayList<>();
    results.add(
        Results.of(Results.GPU, AxpbyBenchmark.COPY, "f32", "saccade", 1, 1 << 30, 1 << 30, 0));
    for (int rows = 512; rows <= 16_384; rows *= 2) {
      String axis = "rows=" + rows;
      long bytes = 300_000L * rows;
      results.add(Results.point("§2 token_log_probs", "saccade", axis, rows / 1e4, bytes, 0));
      results.add(
          Results.point("§2 token_log_probs", "eager", axis, rows / 1e3, bytes, 1e6 * rows));
      results.add(Results.point("§2 token_log_probs", "ctypes", axis, rows / 1e4, bytes, 0));
    }
    return results;
  }

  private static Document svg() throws Exception {
    Map<String, ScalingChart> charts = ScalingChart.all(series());
    assertThat(charts).containsOnlyKeys("scaling-cuda-token_log_probs-rows");
    String svg = charts.values().iterator().next().svg();
    return DocumentBuilderFactory.newInstance()
        .newDocumentBuilder()
        .parse(new InputSource(new StringReader(svg)));
  }

  private static List<Element> elements(Document svg, String name) {
    NodeList nodes = svg.getElementsByTagName(name);
    List<Element> elements = new ArrayList<>();
    for (int i = 0; i < nodes.getLength(); i++) {
      elements.add((Element) nodes.item(i));
    }
    return elements;
  }

  @Test
  void everyEngineAndTheFloorAreCurves() throws Exception {
    Document svg = svg();
    assertThat(elements(svg, "circle")).hasSize(18); // time of two, memory of one
    assertThat(elements(svg, "path"))
        .filteredOn(path -> path.getAttribute("d").contains("L"))
        .hasSize(4); // and the floor
    assertThat(elements(svg, "text"))
        .extracting(Element::getTextContent)
        .contains(
            "beyond inputs and outputs: MB",
            "saccade: none",
            "saccade",
            "eager",
            "floor",
            "rows",
            "512",
            "16384",
            "token_log_probs, bf16: ms")
        .doesNotContain("ctypes");
  }

  @Test
  void everythingIsInsideOfItsPanel() throws Exception {
    for (Element circle : elements(svg(), "circle")) {
      assertThat(Double.parseDouble(circle.getAttribute("cx"))).isBetween(58.0, 358.0);
      assertThat(Double.parseDouble(circle.getAttribute("cy"))).isBetween(34.0, 212.0);
    }
  }

  @Test
  void axesAreLogarithmicAndEndAtWholeTicks() {
    Scale axis = Scale.around(DoubleStream.of(0.03, 4, 0.7), 100, 0);
    assertThat(axis.low()).isEqualTo(0.02, within(1e-12));
    assertThat(axis.high()).isEqualTo(5, within(1e-12));
    assertThat(axis.at(0.02)).isEqualTo(100, within(1e-9));
    assertThat(axis.at(5)).isEqualTo(0, within(1e-9));
    assertThat(axis.at(Math.sqrt(0.1))).isEqualTo(50, within(1e-9));
    assertThat(axis.ticks()).hasSize(2).contains(new double[] {0.1, 1}, within(1e-9));
    assertThat(Scale.around(DoubleStream.of(3), 0, 1).ticks())
        .containsExactly(new double[] {2, 5}, within(1e-9));
  }

  @Test
  void labelsAreShort() {
    assertThat(ScalingChart.label(512)).isEqualTo("512");
    assertThat(ScalingChart.label(8192)).isEqualTo("8192");
    assertThat(ScalingChart.label(151_936)).isEqualTo("152k");
    assertThat(ScalingChart.label(0.05)).isEqualTo("0.05");
    assertThat(ScalingChart.label(2)).isEqualTo("2");
    assertThat(ScalingChart.label(100)).isEqualTo("100");
    assertThat(ScalingChart.label(1_048_576)).isEqualTo("1.05M");
  }
}
