package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import picocli.CommandLine;

class MainTest {
  static List<CommandLine> commands() {
    return Main.commandLine().getSubcommands().values().stream().toList();
  }

  @ParameterizedTest
  @MethodSource("commands")
  void everyCommandHasHelpWithExamples(CommandLine command) {
    String name = command.getCommandName();

    Cli run = Cli.run(name, "--help");

    assertThat(run.status()).isZero();
    assertThat(run.err()).isEmpty();
    assertThat(run.out())
        .contains("Usage: saccade " + name)
        .contains("Examples:")
        .containsPattern("Examples:\\s+saccade " + name + "\\b")
        .contains("--debug");
    assertThat(run.out().lines()).allMatch(line -> line.length() <= 80, "fits 80 columns");
  }

  @Test
  void theProgramHasHelpWithExamples() {
    Cli run = Cli.run("--help");

    assertThat(run.status()).isZero();
    assertThat(run.err()).isEmpty();
    assertThat(run.out()).contains("train", "eval", "op", "info").contains("Examples:");
  }

  @Test
  void theVersion() {
    for (Cli run : List.of(Cli.run("--version"), Cli.run("info", "--version"))) {
      assertThat(run.status()).isZero();
      assertThat(run.out().strip()).matches("saccade \\d+\\.\\d+\\.\\d+.*");
    }
  }

  @Test
  void withoutACommandTheHelpIsShownAsAnError() {
    Cli run = Cli.run();

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.out()).isEmpty();
    assertThat(run.err()).contains("Commands:").endsWith("(see 'saccade --help')\n");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "trian | saccade: unknown command 'trian'; did you mean variance or train or experiment? (see 'saccade --help')",
        "op | saccade op: missing required parameter: 'CASE' (see 'saccade op --help')",
        "op --devize cpu | saccade op: unknown option '--devize'; did you mean --device or",
        "train --stepz 3 | saccade train: unknown option '--stepz'; did you mean --steps?",
        "train 3 | saccade train: unknown argument '3' (see",
        "train --steps many | saccade train: invalid value for option '--steps': 'many' is not an",
        "train --steps 0 | saccade train: --steps: expected 1 or more, got 0 (see",
        "train --kl-coef NaN | saccade train: --kl-coef: expected 0 or more, got NaN (see",
        "train --temperature 0 | saccade train: --temperature: expected a number above 0, got 0.0",
        "train --task chess | saccade train: invalid value for option '--task': unknown task",
        "train --kl-schedule linear | saccade train: invalid value for option '--kl-schedule': expected",
        "train --kl-target 0 | saccade train: --kl-target: expected a number above 0, got 0.0",
        "train --algo dpo | saccade train: invalid value for option '--algo': expected one of",
        "train --resume no/run | saccade train: no/run: no such run folder",
        "train --resume . --seed 3 | saccade train: --seed cannot be changed on --resume",
        "eval | saccade eval: missing required parameter: 'RUN|CHECKPOINT'",
        "eval no/run | saccade eval: no/run: no such run folder or checkpoint",
        "info --device gpu | saccade info: invalid value for option '--device': expected cpu,",
        "info --threads -1 | saccade info: ",
        "info --instruction-set sse9 | saccade info: "
      })
  void aBadOptionIsOneLineAndStatus2(String line, String message) {
    Cli run = Cli.run((Object[]) line.split(" "));

    assertThat(run.status()).isEqualTo(2);
    assertThat(run.out()).isEmpty();
    assertThat(run.errors()).singleElement().asString().startsWith(message);
  }

  @Test
  void aStackTraceOfABadOptionIsShownWithDebugOnly() {
    assertThat(Cli.run("train", "--debug", "--steps", "x").err()).contains("\tat ");
    assertThat(Cli.run("train", "--steps", "x").err()).doesNotContain("\tat ");
  }
}
