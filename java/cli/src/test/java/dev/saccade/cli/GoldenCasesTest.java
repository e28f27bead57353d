package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every golden case of every operation that the library has, through the command that users run.
 */
class GoldenCasesTest {
  static List<String> names() throws IOException {
    try (Stream<Path> files = Files.list(Cli.golden())) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(name -> name.endsWith(".safetensors"))
          .sorted()
          .toList();
    }
  }

  private static String operation(String name) {
    return name.substring(0, name.indexOf("__"));
  }

  @ParameterizedTest
  @MethodSource("names")
  void passes(String name) {
    Cli run = Cli.run("op", Cli.golden().resolve(name));

    assertThat(run.err()).isEmpty();
    assertThat(run.out()).contains("PASS").contains("1 case: 1 passed, 0 failed, 0 not run");
    assertThat(run.status()).isZero();
  }

  @Test
  void theCasesCoverTheseOperations() throws IOException {
    assertThat(names().stream().map(GoldenCasesTest::operation).collect(Collectors.toSet()))
        .contains(
            "group_advantage",
            "token_log_probs",
            "sampled_kl",
            "logit_divergence",
            "policy_loss",
            "policy_loss_from_logits",
            "linear_policy_loss",
            "attention_divergence",
            "adamw",
            "grad_norm",
            "gradient_moments");
  }

  @Test
  void aFolderRunsAllOfItsCases() throws IOException {
    Cli run = Cli.run("op", "--quiet", Cli.golden());

    assertThat(run.out())
        .isEqualToIgnoringNewLines(
            "%1$d cases: %1$d passed, 0 failed, 0 not run".formatted(names().size()));
    assertThat(run.errors()).isEmpty();
    assertThat(run.status()).isZero();
  }
}
