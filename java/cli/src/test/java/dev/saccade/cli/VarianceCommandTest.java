package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.withinPercentage;

import dev.saccade.train.io.Safetensors;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class VarianceCommandTest {
  @TempDir private Path folder;

  private final StringWriter out = new StringWriter();
  private final StringWriter err = new StringWriter();

  private int run(String... args) {
    return Main.run(new PrintWriter(out, true), new PrintWriter(err, true), args);
  }

  @Test
  void samplesOfAnotherFrameworkGiveTheTable() throws IOException {
    Path samples = Files.createDirectories(folder.resolve("samples"));
    Random random = new Random(1);
    double sum = 0;
    double squares = 0;
    int count = 12;
    for (int i = 0; i < count; i++) {
      float value = (float) random.nextGaussian();
      sum += value;
      squares += (double) value * value;
      Safetensors.builder()
          .add("model.layers.1.q_proj.weight", new float[] {value, 3})
          .add("model.layers.2.q_proj.weight", new float[] {value})
          .write(samples.resolve("%02d.safetensors".formatted(i)));
    }
    Path results = folder.resolve("results");

    int status = run("variance", "--samples", samples.toString(), "--out", results.toString());

    assertThat(err.toString()).isEmpty();
    assertThat(status).isZero();
    assertThat(out.toString().strip()).isEqualTo(results.resolve("report.html").toString());
    double variance = (squares - sum * sum / count) / (count - 1);
    List<String> lines = Files.readAllLines(results.resolve("results.csv"));
    String row = "base,,samples,model.q_proj.weight,";
    assertThat(value(lines, row + "1,0,total,")).isEqualTo(value(lines, row + "2,0,total,"));
    assertThat(value(lines, row + "all,all,total,"))
        .isCloseTo(2 * variance, withinPercentage(0.01));
    // A file is a prompt of its own.
    assertThat(lines).anyMatch(line -> line.startsWith(row + "1,0,within,,,,"));
  }

  private static double value(List<String> lines, String start) {
    String line = lines.stream().filter(l -> l.startsWith(start)).findFirst().orElseThrow();
    return Double.parseDouble(line.substring(start.length()).split(",")[0]);
  }

  @Test
  void oneOfCheckpointAndSamplesIsAsked() {
    assertThat(run("variance")).isEqualTo(Main.REJECTED);
    assertThat(err.toString()).contains("expected a checkpoint or --samples, and not both");
  }

  @Test
  void badValuesAreTold() {
    assertThat(run("variance", "policy.safetensors", "--set", "estimators=[ppo]"))
        .isEqualTo(Main.REJECTED);
    assertThat(err.toString()).contains("estimators: expected none, grpo").hasLineCount(1);
  }

  @Test
  void samplesThatDifferAreTold() throws IOException {
    Safetensors.builder().add("layer0.a", new float[] {1}).write(folder.resolve("0.safetensors"));
    Safetensors.builder().add("layer0.b", new float[] {1}).write(folder.resolve("1.safetensors"));

    assertThat(run("variance", "--samples", folder.toString(), "--out", folder.toString()))
        .isEqualTo(Main.REJECTED);
    assertThat(err.toString()).contains("1.safetensors: expected the tensors [layer0.a]");
  }
}
