package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.train.ConfigTree;
import dev.saccade.train.experiment.Experiment;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class ExperimentCommandTest {
  private static final Path EXPERIMENTS = Path.of("..", "..", "experiments");

  @TempDir private Path folder;

  private static List<Path> experiments() throws IOException {
    try (Stream<Path> files = Files.list(EXPERIMENTS)) {
      return files.filter(file -> file.toString().endsWith(".yaml")).sorted().toList();
    }
  }

  @ParameterizedTest
  @MethodSource("experiments")
  void everyExperimentIsOneOfManySeeds(Path file) throws IOException {
    Experiment experiment = Experiment.read(file, null, ConfigTree.of(Map.of()));

    assertThat(experiment.title()).isNotBlank();
    assertThat(experiment.baselines()).isNotEmpty();
    assertThat(experiment.plans().stream().map(plan -> plan.config().seed()).distinct())
        .hasSizeGreaterThanOrEqualTo(5);
    assertThat(
            experiment.plans().stream()
                .map(plan -> Arrays.asList(plan.config(), plan.warmup(), plan.teacher()))
                .distinct())
        .as("no variant is another under a second name")
        .hasSameSizeAs(experiment.plans());
    // Only the rule differs: as many optimizer steps on as many responses, but for the base.
    assertThat(
            experiment.plans().stream()
                .map(plan -> plan.config().rl())
                .filter(rl -> rl.steps() > 0)
                .map(rl -> List.of(rl.steps(), rl.prompts(), rl.group(), rl.updates()))
                .distinct())
        .hasSize(1);
  }

  @Test
  void theExperimentsAreThere() throws IOException {
    assertThat(experiments())
        .extracting(file -> file.getFileName().toString())
        .contains(
            "same-task.yaml",
            "cross-task.yaml",
            "visual-tokens.yaml",
            "distillation.yaml",
            "kl.yaml",
            "ral.yaml");
  }

  @Test
  void itStopsAtItsBudgetAndGoesOn() throws IOException {
    Path file = folder.resolve("small.yaml");
    Files.writeString(
        file,
        """
        title: small
        seeds: [1, 2]
        common: {preset: tiny, evaluationScenes: 32, rl: {steps: 2, prompts: 8}}
        warmup: {sft: {steps: 5}}
        axes:
          rule:
            grpo: {algorithm: grpo}
            ral: {algorithm: ral}
        compare: {rule: [grpo]}
        """);
    Path out = folder.resolve("out");

    Cli none = Cli.run("experiment", file, "--out", out, "--budget", "1e-6");
    assertThat(none.status()).isZero();
    assertThat(none.out()).contains("stopped; the same command goes on");

    Cli all = Cli.run("experiment", file, "--out", out, "--seeds", "7,8", "--set", "rl.steps=3");
    assertThat(all.err()).contains("done      ral-s8-").contains("(4 of 4 runs)");
    assertThat(all.status()).isZero();
    assertThat(all.out())
        .containsPattern("\\| ral \\| read \\| 0\\.\\d{3} ± \\d+\\.\\d{3} \\| .* \\| 2 \\|")
        .contains("tables and figure: " + out)
        .doesNotContain("stopped");
    assertThat(out.resolve("results.csv")).content().contains("grpo,7,read,");

    List<String> runs;
    try (Stream<Path> folders = Files.list(out.resolve("runs"))) {
      runs = folders.map(Path::toString).filter(run -> run.contains("-s7-")).sorted().toList();
    }
    assertThat(runs).hasSize(3);
    Path page = folder.resolve("page.html");
    Cli compared = Cli.run("report", runs.get(0), runs.get(1), "--out", page);
    assertThat(compared.status()).as(compared.err()).isZero();
    assertThat(compared.out()).contains(page.toString());
    String name = Path.of(runs.get(0)).getFileName().toString();
    assertThat(page)
        .content()
        .contains("<h1>Saccade: 2 runs</h1>")
        .contains(name)
        .contains("Held-out accuracy")
        .contains(name + ": algorithm")
        .doesNotContain(name + ": seed");
    assertThat(Cli.run("report", runs.get(0)).out()).contains("report.html");
  }

  @Test
  void mistakesAreOneLine() {
    Cli unknown = Cli.run("experiment", "klll");
    assertThat(unknown.status()).isEqualTo(2);
    assertThat(unknown.errors())
        .singleElement()
        .asString()
        .startsWith("saccade experiment: no experiment \"klll\"; known here: ");
    Cli bad = Cli.run("experiment", EXPERIMENTS.resolve("kl.yaml"), "--set", "rl.stepps=3");
    assertThat(bad.status()).isEqualTo(2);
    assertThat(bad.err()).contains("kl.yaml: rl.stepps: is not the name of a value; known here:");
    assertThat(Cli.run("experiment", "kl", "--jobs", "0").err())
        .contains("--jobs: expected 1 or more, got 0");
    assertThat(Cli.run("experiment", "kl", "--budget", "-1").err())
        .contains("--budget: expected a number above 0, got -1.0");
    assertThat(Cli.run("report", "nowhere").err()).contains("nowhere: no such run folder");
  }
}
