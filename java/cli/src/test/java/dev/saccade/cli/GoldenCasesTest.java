package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every golden case of every operation that the library has, through the command that users run.
 */
class GoldenCasesTest {
  /** Operations that are specified, have cases, and are not in the library. */
  private static final Set<String> NOT_IMPLEMENTED =
      Set.of("policy_loss_from_logits", "linear_policy_loss", "gradient_moments");

  private static List<String> names() throws IOException {
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

  static List<String> implemented() throws IOException {
    return names().stream().filter(name -> !NOT_IMPLEMENTED.contains(operation(name))).toList();
  }

  static List<String> notImplemented() throws IOException {
    return names().stream().filter(name -> NOT_IMPLEMENTED.contains(operation(name))).toList();
  }

  @ParameterizedTest
  @MethodSource("implemented")
  void passes(String name) {
    Cli run = Cli.run("op", Cli.golden().resolve(name));

    assertThat(run.err()).isEmpty();
    assertThat(run.out()).contains("PASS").contains("1 case: 1 passed, 0 failed, 0 not run");
    assertThat(run.status()).isZero();
  }

  @ParameterizedTest
  @MethodSource("notImplemented")
  void isNeverCountedAsPassed(String name) {
    Cli run = Cli.run("op", Cli.golden().resolve(name));

    assertThat(run.errors())
        .singleElement()
        .asString()
        .contains(name)
        .endsWith("operation " + operation(name) + " is not implemented yet");
    assertThat(run.out()).isEqualToIgnoringNewLines("1 case: 0 passed, 0 failed, 1 not run");
    assertThat(run.status()).isEqualTo(2);
  }

  @Test
  void theCasesCoverTheseOperations() throws IOException {
    assertThat(names().stream().map(GoldenCasesTest::operation).collect(Collectors.toSet()))
        .containsAll(NOT_IMPLEMENTED)
        .contains(
            "group_advantage",
            "token_log_probs",
            "sampled_kl",
            "logit_divergence",
            "policy_loss",
            "attention_divergence",
            "adamw",
            "grad_norm");
  }

  @Test
  void aFolderRunsAllOfItsCases() throws IOException {
    Cli run = Cli.run("op", "--quiet", Cli.golden());

    assertThat(run.out())
        .isEqualToIgnoringNewLines(
            "%d cases: %d passed, 0 failed, %d not run"
                .formatted(names().size(), implemented().size(), notImplemented().size()));
    assertThat(run.errors()).hasSize(notImplemented().size());
    assertThat(run.status()).isEqualTo(2);
  }
}
