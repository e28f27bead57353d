package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.withinPercentage;

import dev.saccade.train.io.Safetensors;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class VarianceCommandTest {
  @TempDir private Path folder;

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

    Cli run = Cli.run("variance", "--samples", samples.toString(), "--out", results.toString());

    assertThat(run.err()).isEmpty();
    assertThat(run.status()).isZero();
    assertThat(run.out().strip()).isEqualTo(results.resolve("report.html").toString());
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
    Cli run = Cli.run("variance");

    assertThat(run.status()).isEqualTo(Main.REJECTED);
    assertThat(run.err()).contains("expected a checkpoint or --samples, and not both");
  }

  @Test
  void badValuesAreTold() {
    Cli run = Cli.run("variance", "policy.safetensors", "--set", "estimators=[ppo]");

    assertThat(run.status()).isEqualTo(Main.REJECTED);
    assertThat(run.err()).contains("estimators: expected none, grpo").hasLineCount(1);
  }

  @Test
  void samplesThatDifferAreTold() throws IOException {
    Safetensors.builder().add("layer0.a", new float[] {1}).write(folder.resolve("0.safetensors"));
    Safetensors.builder().add("layer0.b", new float[] {1}).write(folder.resolve("1.safetensors"));

    Cli run = Cli.run("variance", "--samples", folder.toString(), "--out", folder.toString());

    assertThat(run.status()).isEqualTo(Main.REJECTED);
    assertThat(run.err()).contains("1.safetensors: expected the tensors [layer0.a]");
  }
}
